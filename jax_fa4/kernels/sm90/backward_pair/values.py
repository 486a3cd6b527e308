"""The values' warpgroup: probabilities of this CTA's keys, and dV.

    S issued    exponentials    P --> the slot of dS    dV issued

Scores are transposed, S^T = K Q^T, keys by queries: then P^T is, in the registers in which it
comes up, operand A of dV += P^T dO.

CONTRACT: for every step of the walk the warpgroup takes two half tiles of `q` and two of `do` and
gives each back once, and fills a stage of `p`; one arrival a warp each.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.backward import bounded, products, walk
from jax_fa4.kernels.sm90.backward_pair import epilogue, scores
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, TILE_M, TILE_N
from jax_fa4.kernels.sm90.backward_pair.products import finish_sums, issue_scores, issue_sums
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.accumulators import ThreadCoordinates, convert, make_a_operand
from jax_fa4.kernels.toolkit.transposed_scores import hide, load_rows, probabilities


@cute.jit
def _probabilities(context, acc, lse_log2, where, thread, operands):
    """P of S, or, with a soft cap, P in the first operand and what dS has for it in the other."""
    block, whole = where
    if cutlass.const_expr(bounded.has_cap(context)):
        bounded.cap(context, acc)
    else:
        probabilities(acc, lse_log2, context.scale_log2)
    if cutlass.const_expr(context.bounded is not None):
        if not whole:
            key = context.position.key_block * TILE_N
            bounded.hide(context, acc, block, key, thread)
    elif context.queries.needs_mask(block):
        key = context.position.key_block * TILE_N
        hide(acc, context.band, block * TILE_M, key, thread)
    if cutlass.const_expr(bounded.has_cap(context)):
        # Not read ahead: for that there are no registers.
        place = thread.column
        bounded.capped_probabilities(
            context, acc, *operands, lambda c: lse_log2[place + 8 * (c // 2) + c % 2]
        )


@cute.jit
def run(context) -> None:
    """Walk this pair's blocks of queries; see the contract above."""
    config, barriers, shared = context.config, context.barriers, context.shared
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    thr_s, thr_v = context.tiled_mma_s.get_slice(0), context.tiled_mma_v.get_slice(0)
    tSrK = thr_s.make_fragment_A(thr_s.partition_A(shared.sK))[None, None, None, 0]
    tSrQ = thr_s.make_fragment_B(thr_s.partition_B(shared.sQ))
    tVrdO = thr_v.make_fragment_B(thr_v.partition_B(products.transposed(shared.sdO)))
    acc_S = products.accumulator(context.tiled_mma_s, TILE_M)
    tVrP = make_a_operand(acc_S, context.dtype)
    # What the keys' warpgroup makes dS of.
    tSrP = make_a_operand(acc_S, context.dtype) if bounded.has_cap(context) else tVrP
    sums = [
        products.accumulator(context.tiled_mma_v, config.gradient_columns) for _ in range(HALVES)
    ]
    q_ring, do_ring = mbarriers.make_ring(config.q_stages), mbarriers.make_ring(config.do_stages)
    ds_ring = mbarriers.make_ring(config.ds_stages)

    barriers["kv_full"].wait(0, 0)
    head, block = walk.first_step(context)
    for i in cutlass.range(walk.steps(context), unroll=1):
        q_stages = mbarriers.take(q_ring, HALVES)
        issue_scores(context, acc_S, tSrK, tSrQ, "q", q_stages)
        lse_log2 = shared.sLSE.iterator + q_stages[0][0] * TILE_M
        if cutlass.const_expr(not bounded.has_cap(context)):
            lse_log2 = load_rows(lse_log2, acc_S, thread)
        whole = bounded.sees_whole(context, block, context.position.key_block * TILE_N)
        warpgroup.wait_group(0)
        _probabilities(context, acc_S, lse_log2, (block, whole), thread, (tVrP, tSrP))
        scores.release(barriers["q_empty"], q_stages)
        if cutlass.const_expr(not bounded.has_cap(context)):
            convert(acc_S, tVrP)
        stage, parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_empty"].wait(stage, parity ^ 1)
        scores.write_probabilities(context, tSrP, stage, thread_index)
        barriers["p_full"].arrive_as_warp(stage)

        do_stages = mbarriers.take(do_ring, HALVES)
        scores.wait(barriers["do_full"], do_stages)
        issue_sums(context.tiled_mma_v, sums, tVrP, tVrdO, do_stages, i == 0)
        finish_sums(context, "do", do_stages)
        head, block = walk.next_step(context, head, block)

    staged = epilogue.Staged(context.tiled_mma_v, context.gmem.dv, shared.sV)
    epilogue.run(context, sums, staged, Int32(0), thread_index)
