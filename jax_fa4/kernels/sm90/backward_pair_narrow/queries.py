"""The queries' warpgroup: half of the columns of dQ = dS K over the pair's keys; it also loads.

Panels are made one after the other, so that the warpgroup needs few registers: the consumers need
them. A panel goes to dq_accum by vector reductions from the registers, in the order in which
they hold it.

CONTRACT: for every step of the walk the warpgroup takes one stage of `ds`, written by both CTAs,
and gives it back to both; one arrival a warp. Loads are as load.py says. Where CTAs take turns, it
adds in its turn, and another warp loads.
"""

from __future__ import annotations

from functools import partial

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.backward import (
    copies,
    epilogue,
    few_registers,
    products,
    turns,
    walk,
)
from jax_fa4.kernels.sm90.backward_pair_narrow import load
from jax_fa4.kernels.sm90.backward_pair_narrow.config import PAIR
from jax_fa4.kernels.toolkit import mbarriers


def _multiply(context, tQrdS, stage, tiled_mma, operands, acc_dQ, panel) -> None:
    """dQ = dS K of one panel, over this CTA's keys and the other's.

    `panel` is its number, or by few_registers.py (number, atom of this half of the columns).
    """
    tQrK, tQrOther = operands
    consumers = context.config.consumers
    if isinstance(panel, tuple):
        own, panel = (panel[0], context.position.rank), panel[0]
    else:
        own = context.position.rank * context.config.panels + panel
    pairs = []
    for cta, (keys, column) in enumerate(((tQrK, own), (tQrOther, panel))):
        for i in range(consumers):
            a = tQrdS[None, None, None, (stage * PAIR + cta) * consumers + i]
            pairs += products.by_depth(a, products.one_tile(keys[None, column, None, i]))
    products.issue(tiled_mma, acc_dQ, pairs, zero_first=True)
    warpgroup.wait_group(0)


@cute.jit
def run(context, warp: Int32) -> None:
    """Walk this pair's blocks of queries; see the contract above."""
    config, shared, barriers = context.config, context.shared, context.barriers
    thread_index = cute.arch.thread_idx()[0] % 128
    thr_q = context.tiled_mma_q.get_slice(0)

    def keys(tensor):
        return thr_q.make_fragment_B(thr_q.partition_B(products.transposed(tensor)))

    tQrdS = thr_q.make_fragment_A(thr_q.partition_A(products.transposed(shared.sdS)))
    operands = keys(shared.sK), keys(shared.sOtherK)
    ds_ring = mbarriers.make_ring(config.ds_stages)
    acc_dQ = products.accumulator(context.tiled_mma_q, config.dq_columns)
    if cutlass.const_expr(not config.ordered):
        loader = load.make_loader(context)
        if warp == 0:
            load.start(context, loader)
    else:
        barriers["kv_full"].wait(0, 0)
    barriers["kv_full"].wait(2, 0)

    head, block = walk.first_step(context)
    first = context.position.rank * config.panels
    for i in cutlass.range(walk.steps(context), unroll=1):
        stage, parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_full"].wait(stage, parity)
        if cutlass.const_expr(config.ordered):
            turns.begin(context, i)
        if cutlass.const_expr(config.few_registers):
            panels = few_registers.make_panels_of_pair(context, operands, acc_dQ)
            multiply = partial(_multiply, context, tQrdS, stage)
            few_registers.add_block(context, panels, multiply, head, block, thread_index)
        else:
            # NOTES: not unrolled, or ptxas overlaps panels, for which there are no registers.
            for panel in cutlass.range(config.panels, unroll=1):
                _multiply(context, tQrdS, stage, context.tiled_mma_q, operands, acc_dQ, panel)
                copies.add_panel(context, acc_dQ, head, block, first + panel, thread_index)
        barriers["ds_empty"].arrive_as_warp(stage)
        barriers["ds_empty"].arrive_as_warp_at(stage, 1 - context.position.rank)
        if cutlass.const_expr(config.ordered):
            turns.end(context, i)
        elif warp == 0:
            load.go_on(context, loader, i)
        head, block = walk.next_step(context, head, block)
    epilogue.release_keys(context)
