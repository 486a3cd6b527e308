"""The backward's matrix products, as one warpgroup issues them."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import warpgroup
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward.config import (
    KEYS_PER_WARPGROUP,
    BackwardConfig,
)

_MMA_ROWS = 64


def make_tiled_mmas(config: BackwardConfig, dtype) -> tuple[cute.TiledMma, ...]:
    """Of scores (S^T and dP^T), of sums over queries (dK and dV), and of dQ."""
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
            tiler_mn=(_MMA_ROWS, columns),
            a_source=source,
        )

    return (
        make(k_major, k_major, config.tile_m, shared),
        make(k_major, mn_major, config.head_dim, registers),
        make(mn_major, mn_major, config.dq_columns, shared),
    )


def accumulator(tiled_mma: cute.TiledMma, columns: int) -> cute.Tensor:
    """Registers for a tile of 64 rows."""
    thread = tiled_mma.get_slice(0)
    return thread.make_fragment_C(thread.partition_shape_C((KEYS_PER_WARPGROUP, columns)))


def transposed(tensor: cute.Tensor) -> cute.Tensor:
    """The same tile, and further modes, with rows and columns exchanged."""
    modes = [1, 0, *range(2, cute.rank(tensor))]
    return cute.make_tensor(tensor.iterator, cute.select(tensor.layout, modes))


def issue(tiled_mma: cute.TiledMma, acc: cute.Tensor, operands, *, zero_first) -> None:
    """Issue acc (+)= the sum of a b over the pairs of `operands`, and commit it as one group.

    `zero_first`, known at trace time or at run time, says whether acc has no value yet.
    """
    warpgroup.fence()
    # NOTES: an atom of its own, since setting a field rebinds a value of this region.
    atom = cute.make_mma_atom(tiled_mma.op)
    for number, (a, b) in enumerate(operands):
        keeps = (
            True if number > 0 else not zero_first if isinstance(zero_first, bool) else ~zero_first
        )
        atom.set(warpgroup.Field.ACCUMULATE, keeps)
        cute.gemm(atom, acc, a, b, acc)
    warpgroup.commit_group()


def by_depth(a: cute.Tensor, b: cute.Tensor) -> list[tuple[cute.Tensor, cute.Tensor]]:
    """The pairs of two operands (MMA, 1, depth)."""
    return [(a[None, None, k], b[None, None, k]) for k in range(cute.size(a, mode=[2]))]


def one_tile(operand: cute.Tensor) -> cute.Tensor:
    """(MMA, depth) as (MMA, 1, depth)."""
    instruction, depth = operand.layout[0], operand.layout[1]
    return cute.make_tensor(
        operand.iterator,
        cute.make_layout(
            (instruction.shape, 1, depth.shape), stride=(instruction.stride, 0, depth.stride)
        ),
    )
