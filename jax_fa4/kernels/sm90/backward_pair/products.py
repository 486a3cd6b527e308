"""The matrix products of the backward in pairs of CTAs."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import warpgroup
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward import products
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, TILE_M, TILE_N, PairConfig


def make_tiled_mmas(config: PairConfig, dtype) -> tuple[cute.TiledMma, ...]:
    """Of scores (S^T and dP^T), of halves of dK, of panels of dQ, and of halves of dV."""
    k_major, mn_major = warpgroup.OperandMajorMode.K, warpgroup.OperandMajorMode.MN
    registers, shared = warpgroup.OperandSource.RMEM, warpgroup.OperandSource.SMEM

    def make(major_a, major_b, columns, source):
        return hopper.make_trivial_tiled_mma(
            dtype,
            dtype,
            major_a,
            major_b,
            Float32,
            atom_layout_mnk=(1, 1, 1),
            tiler_mn=(TILE_N, columns),
            a_source=source,
        )

    return (
        make(k_major, k_major, TILE_M, shared),
        make(k_major, mn_major, config.query_columns, registers),
        make(mn_major, mn_major, config.dq_columns, shared),
        make(k_major, mn_major, config.gradient_columns, registers),
    )


def issue_scores(context, acc, keys, queries, name: str, stages) -> None:
    """acc = keys queries^T: S^T of K and Q, or dP^T of V and dO, half of the depth at a time.

    `stages` are those of the halves in the ring `name`, each with its parity.
    """
    depth = cute.size(queries, mode=[2])
    for half in range(HALVES):
        stage, parity = stages[half]
        context.barriers[name + "_full"].wait(stage, parity)
        first = half * depth
        pairs = [(keys[None, None, first + k], queries[None, None, k, stage]) for k in range(depth)]
        products.issue(context.tiled_mma_s, acc, pairs, zero_first=half == 0)


def issue_sums(tiled_mma, sums, scores, queries, stages, first) -> None:
    """sums += scores queries, a half of the columns each: dV of P^T and dO, or dK of dS^T and Q."""
    for half in range(HALVES):
        pairs = products.by_depth(scores, queries[None, None, None, stages[half][0]])
        products.issue(tiled_mma, sums[half], pairs, zero_first=first)


def finish_sums(context, name: str, stages) -> None:
    """Wait for the sums over both halves, and give each back to the ring `name` when it is read."""
    for half in range(HALVES):
        warpgroup.wait_group(HALVES - 1 - half)
        # NOTES: with a product in flight across the loop's end, ptxas serialises all of them.
        context.barriers[name + "_empty"].arrive_as_warp(stages[half][0])
