"""A consumer: one warpgroup that owns 64 keys, their dK and dV.

Scores are transposed, S^T = K Q^T, keys by queries: then P^T and dS^T are, in the registers
in which they come up, the operands A of dV += P^T dO and dK += dS^T Q. dS^T also goes to shared
memory, here and of the other CTA, from which the queries' warpgroups make dQ (queries.py).

    S, dP issued    exponentials under dP    dV issued    dS under dV    dK issued

CONTRACT: for every step of the walk a consumer takes one stage of `q` and one of `do` and gives
each back once, here and to the CTA that loads it, and fills its part of one stage of `ds`; one
arrival a warp each.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward import epilogue, products, walk
from jax_fa4.kernels.sm90.backward_pair_narrow.config import (
    DO_RANK,
    KEYS_PER_WARPGROUP,
    PAIR,
    Q_RANK,
    TILE_M,
)
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.accumulators import ThreadCoordinates, convert, make_a_operand
from jax_fa4.kernels.toolkit.bulk_copies import send
from jax_fa4.kernels.toolkit.transposed_scores import (
    hide,
    load_rows,
    probabilities,
    score_gradients,
)

_TILE = KEYS_PER_WARPGROUP * TILE_M  # of dS, elements


@dataclass(frozen=True)
class Fragments:
    """This warpgroup's operands in shared memory, and its sums; t<product>r<operand>."""

    tSrK: cute.Tensor  # (MMA, 1, depth): this warpgroup's keys
    tSrQ: cute.Tensor  # (MMA, 1, depth, stages)
    tPrV: cute.Tensor  # (MMA, 1, depth)
    tPrdO: cute.Tensor  # (MMA, 1, depth, stages)
    tVrdO: cute.Tensor  # (MMA, 1, depth, stages): dO as the second operand of dV
    tKrQ: cute.Tensor  # (MMA, 1, depth, stages)
    acc_dK: cute.Tensor
    acc_dV: cute.Tensor


def _make_fragments(context, wg: Int32) -> Fragments:
    shared, config = context.shared, context.config
    thr_s = context.tiled_mma_s.get_slice(0)
    thr_kv = context.tiled_mma_kv.get_slice(0)

    def second(thread, tensor):
        return thread.make_fragment_B(thread.partition_B(tensor))

    return Fragments(
        tSrK=thr_s.make_fragment_A(thr_s.partition_A(shared.sK))[None, None, None, wg],
        tSrQ=second(thr_s, shared.sQ),
        tPrV=thr_s.make_fragment_A(thr_s.partition_A(shared.sV))[None, None, None, wg],
        tPrdO=second(thr_s, shared.sdO),
        tVrdO=second(thr_kv, products.transposed(shared.sdO)),
        tKrQ=second(thr_kv, products.transposed(shared.sQ)),
        acc_dK=products.accumulator(context.tiled_mma_kv, config.head_dim),
        acc_dV=products.accumulator(context.tiled_mma_kv, config.head_dim),
    )


@cute.jit
def _write_gradients(context, tKrdS, acc, stage, wg, thread_index):
    """dS^T of this warpgroup's keys to shared memory."""
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, cutlass.Float32)
    copy = cute.make_tiled_copy_C(atom, context.tiled_mma_s).get_slice(thread_index)
    registers = cute.make_tensor(tKrdS.iterator, acc.layout)
    tile = context.shared.sdS[None, None, stage * (PAIR * context.config.consumers) + wg]
    cute.copy(copy, copy.retile(registers), copy.partition_D(tile))


@cute.jit
def _publish_gradients(context, stage, wg, thread_index):
    """Say that this warp's dS is written, and send it to the other CTA.

    A warp's 16 keys are contiguous. The other CTA's same warp sends as many bytes here.
    """
    consumers, full = context.config.consumers, context.barriers["ds_full"]
    cute.arch.fence_view_async_shared()
    warp = cute.arch.make_warp_uniform(thread_index // 32)
    place = (stage * (PAIR * consumers) + wg) * _TILE + warp * (_TILE // 4)
    source = cute.recast_ptr(context.shared.sdS.iterator, dtype=context.dtype) + place
    size = _TILE // 4 * context.dtype.width // 8
    cute.arch.sync_warp()
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, size)
    other = 1 - context.position.rank
    send(source, source + consumers * _TILE, size, full.at(stage), (thread_index % 32, other))


@cute.jit
def _issue_sums(context, frag, operands, stage, do_stage, first):
    """dV += P^T dO and dK += dS^T Q."""
    tVrP, tKrdS = operands
    pairs = products.by_depth(tVrP, frag.tVrdO[None, None, None, do_stage])
    products.issue(context.tiled_mma_kv, frag.acc_dV, pairs, zero_first=first)
    pairs = products.by_depth(tKrdS, frag.tKrQ[None, None, None, stage])
    products.issue(context.tiled_mma_kv, frag.acc_dK, pairs, zero_first=first)


@cute.jit
def _release(context, name: str, stage, loader: cutlass.Constexpr):
    """Give a stage back, as a warp: to this CTA, and to the CTA that loads it."""
    context.barriers[name + "_empty"].arrive_as_warp(stage)
    if context.position.rank != loader:
        context.barriers[name + "_freed"].arrive_as_warp_at(stage, loader)


@cute.jit
def _finish_sums(context, stage, do_stage):
    """Wait for both, and give back what they read."""
    warpgroup.wait_group(1)
    _release(context, "do", do_stage, DO_RANK)
    # NOTES: with a product in flight across the loop's end, ptxas serialises all of them.
    warpgroup.wait_group(0)
    _release(context, "q", stage, Q_RANK)


@cute.jit
def run(context, wg: Int32) -> None:
    """Walk this pair's blocks of queries as consumer number `wg`; see the contract above."""
    config, barriers, shared = context.config, context.barriers, context.shared
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    key = context.position.key_block * config.tile_n + wg * KEYS_PER_WARPGROUP
    frag = _make_fragments(context, wg)
    acc_S = products.accumulator(context.tiled_mma_s, TILE_M)
    acc_dP = products.accumulator(context.tiled_mma_s, TILE_M)
    tVrP, tKrdS = make_a_operand(acc_S, context.dtype), make_a_operand(acc_S, context.dtype)
    ring, do_ring = mbarriers.make_ring(config.q_stages), mbarriers.make_ring(config.do_stages)
    ds_ring = mbarriers.make_ring(config.ds_stages)

    barriers["kv_full"].wait(0, 0)
    barriers["kv_full"].wait(1, 0)
    head, block = walk.first_step(context)
    for i in cutlass.range(walk.steps(context), unroll=1):
        stage, parity = mbarriers.take(ring, 1)[0]
        do_stage, do_parity = mbarriers.take(do_ring, 1)[0]
        barriers["q_full"].wait(stage, parity)
        pairs = products.by_depth(frag.tSrK, frag.tSrQ[None, None, None, stage])
        products.issue(context.tiled_mma_s, acc_S, pairs, zero_first=True)
        barriers["do_full"].wait(do_stage, do_parity)
        pairs = products.by_depth(frag.tPrV, frag.tPrdO[None, None, None, do_stage])
        products.issue(context.tiled_mma_s, acc_dP, pairs, zero_first=True)
        # NOTES: while products run it gains 3 % at head dim 64, and costs 2 at 128.
        if cutlass.const_expr(config.reads_rows_ahead):
            lse_log2 = load_rows(shared.sLSE.iterator + stage * TILE_M, acc_S, thread)
            warpgroup.wait_group(1)
        else:
            warpgroup.wait_group(1)
            lse_log2 = load_rows(shared.sLSE.iterator + stage * TILE_M, acc_S, thread)
        probabilities(acc_S, lse_log2, context.scale_log2)
        if context.queries.needs_mask(block):
            hide(acc_S, context.band, block * TILE_M, key, thread)
        if cutlass.const_expr(config.reads_rows_ahead):
            deltas = load_rows(shared.sDelta.iterator + do_stage * TILE_M, acc_dP, thread)
            warpgroup.wait_group(0)
        else:
            warpgroup.wait_group(0)
            deltas = load_rows(shared.sDelta.iterator + do_stage * TILE_M, acc_dP, thread)
        score_gradients(acc_S, acc_dP, deltas)
        convert(acc_S, tVrP)
        convert(acc_dP, tKrdS)
        ds_stage, ds_parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_empty"].wait(ds_stage, ds_parity ^ 1)
        _write_gradients(context, tKrdS, acc_dP, ds_stage, wg, thread_index)
        _issue_sums(context, frag, (tVrP, tKrdS), stage, do_stage, i == 0)
        _publish_gradients(context, ds_stage, wg, thread_index)
        _finish_sums(context, stage, do_stage)
        head, block = walk.next_step(context, head, block)

    epilogue.run(context, frag, wg, thread_index)
