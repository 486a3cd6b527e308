"""The queries' warpgroup: half of the columns of dQ = dS K over the pair's keys.

Panels of 64 rows are made one after the other, so that the warpgroup needs few registers: dK and dV
need them. A panel goes to dq_accum by vector reductions from the registers, in the order in
which they hold it.

CONTRACT: for every step of the walk the warpgroup takes one stage of `ds`, written by both CTAs,
and gives it back to both; one arrival a warp.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.backward import copies, products, turns, walk
from jax_fa4.kernels.sm90.backward_pair import epilogue
from jax_fa4.kernels.sm90.backward_pair.config import PAIR
from jax_fa4.kernels.toolkit import mbarriers


def _multiply(context, operands, acc_dQ, stage, panel) -> None:
    """dQ = dS K of one panel, over this CTA's keys and the other's."""
    tQrdS, tQrK, tQrOther = operands
    own = context.position.rank * context.config.panels + panel
    pairs = []
    for slot, keys, column in ((0, tQrK, own), (1, tQrOther, panel)):
        a = tQrdS[None, None, None, stage * PAIR + slot]
        b = keys[None, column, None, 0]
        pairs += products.by_depth(a, products.one_tile(b))
    products.issue(context.tiled_mma_q, acc_dQ, pairs, zero_first=True)
    warpgroup.wait_group(0)


@cute.jit
def run(context) -> None:
    """Walk this pair's blocks of queries; see the contract above."""
    config, shared, barriers = context.config, context.shared, context.barriers
    thread_index = cute.arch.thread_idx()[0] % 128
    thr_q = context.tiled_mma_q.get_slice(0)

    def keys(tensor):
        return thr_q.make_fragment_B(thr_q.partition_B(products.transposed(tensor)))

    tQrdS = thr_q.make_fragment_A(thr_q.partition_A(products.transposed(shared.sdS)))
    operands = tQrdS, keys(shared.sK), keys(shared.sOtherK)
    ds_ring = mbarriers.make_ring(config.ds_stages)
    acc_dQ = products.accumulator(context.tiled_mma_q, config.dq_columns)

    barriers["kv_full"].wait(0, 0)
    barriers["kv_full"].wait(2, 0)
    head, block = walk.first_step(context)
    first = context.position.rank * config.panels
    for i in cutlass.range(walk.steps(context), unroll=1):
        stage, parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_full"].wait(stage, parity)
        if cutlass.const_expr(config.ordered):
            turns.begin(context, i)
        # NOTES: not unrolled, or ptxas overlaps panels, for which there are no registers.
        for panel in cutlass.range(config.panels, unroll=1):
            _multiply(context, operands, acc_dQ, stage, panel)
            copies.add_panel(context, acc_dQ, head, block, first + panel, thread_index)
        barriers["ds_empty"].arrive_as_warp(stage)
        barriers["ds_empty"].arrive_as_warp_at(stage, 1 - context.position.rank)
        if cutlass.const_expr(config.ordered):
            turns.end(context, i)
        head, block = walk.next_step(context, head, block)
    epilogue.release_keys()
