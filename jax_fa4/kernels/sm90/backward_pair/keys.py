"""The keys' warpgroup: gradients of the scores of this CTA's keys, and dK.

    dP issued    P <-- the slot of dS    dS --> the slot, and to the other CTA    dK issued

CONTRACT: for every step of the walk the warpgroup takes two half tiles of `do` and two of `q` and
gives each back once, takes a stage of `p`, and fills it for `ds`, here and in the other CTA; one
arrival a warp each.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.backward import products, walk
from jax_fa4.kernels.sm90.backward_pair import epilogue, scores
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, TILE_M
from jax_fa4.kernels.sm90.backward_pair.products import finish_sums, issue_scores, issue_sums
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.accumulators import ThreadCoordinates, convert, make_a_operand
from jax_fa4.kernels.toolkit.transposed_scores import load_rows, score_gradients


@cute.jit
def run(context) -> None:
    """Walk this pair's blocks of queries; see the contract above."""
    config, barriers, shared = context.config, context.barriers, context.shared
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    thr_s, thr_k = context.tiled_mma_s.get_slice(0), context.tiled_mma_kv.get_slice(0)
    tPrV = thr_s.make_fragment_A(thr_s.partition_A(shared.sV))[None, None, None, 0]
    tPrdO = thr_s.make_fragment_B(thr_s.partition_B(shared.sdO))
    tKrQ = thr_k.make_fragment_B(thr_k.partition_B(products.transposed(shared.sQ)))
    acc_dP = products.accumulator(context.tiled_mma_s, TILE_M)
    tKrdS = make_a_operand(acc_dP, context.dtype)
    sums = [products.accumulator(context.tiled_mma_kv, config.query_columns) for _ in range(HALVES)]
    q_ring, do_ring = mbarriers.make_ring(config.q_stages), mbarriers.make_ring(config.do_stages)
    ds_ring = mbarriers.make_ring(config.ds_stages)

    barriers["kv_full"].wait(1, 0)
    for i in cutlass.range(walk.steps(context), unroll=1):
        do_stages = mbarriers.take(do_ring, HALVES)
        issue_scores(context, acc_dP, tPrV, tPrdO, "do", do_stages)
        deltas = load_rows(shared.sDelta.iterator + do_stages[0][0] * TILE_M, acc_dP, thread)
        stage, parity = mbarriers.take(ds_ring, 1)[0]
        barriers["p_full"].wait(stage, parity)
        tSrP = scores.read_probabilities(context, acc_dP, stage, thread_index)
        warpgroup.wait_group(0)
        score_gradients(tSrP, acc_dP, deltas)
        scores.release(barriers["do_empty"], do_stages)
        convert(acc_dP, tKrdS)
        cute.arch.sync_warp()
        scores.write_gradients(context, tKrdS, acc_dP, stage, thread_index)
        scores.publish(context, stage, thread_index)

        q_stages = mbarriers.take(q_ring, HALVES)
        scores.wait(barriers["q_full"], q_stages)
        issue_sums(context.tiled_mma_kv, sums, tKrdS, tKrQ, q_stages, i == 0)
        finish_sums(context, "q", q_stages)

    for half in cutlass.range_constexpr(HALVES):
        for k in cutlass.range_constexpr(cute.size(sums[half])):
            sums[half][k] = sums[half][k] * context.scale
    staged = epilogue.Staged(context.tiled_mma_kv, context.gmem.dk, shared.sK)
    epilogue.run(context, sums, staged, Int32(1), thread_index)
