"""The queries' warpgroup: dQ = dS K, added to global memory; its first warp may load, too.

Panels of 64 rows and 64 columns of dQ are made one after the other, so that the warpgroup needs
few registers: the consumers need them. A panel goes to dq_accum by vector reductions from the
registers, in the order in which they hold it.

CONTRACT: for every step of the walk the warpgroup takes one stage of `ds`, written by all
consumers, and gives it back; one arrival a warp. Loads are as load.py says.
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
    load,
    products,
    turns,
    walk,
)
from jax_fa4.kernels.toolkit import mbarriers


def _multiply(context, tQrdS, stage, tiled_mma, tQrK, acc_dQ, panel) -> None:
    """dQ = dS K of one panel, all keys."""
    consumers = context.config.consumers
    pairs = []
    for i in range(consumers):
        a = tQrdS[None, None, None, stage * consumers + i]
        b = tQrK[None, panel, None, i]
        pairs += products.by_depth(a, products.one_tile(b))
    products.issue(tiled_mma, acc_dQ, pairs, zero_first=True)
    warpgroup.wait_group(0)


@cute.jit
def run(context, warp: Int32) -> None:
    """Walk this CTA's blocks of queries; see the contract above."""
    config, shared, barriers = context.config, context.shared, context.barriers
    thread_index = cute.arch.thread_idx()[0] % 128
    thr_q = context.tiled_mma_q.get_slice(0)
    tQrdS = thr_q.make_fragment_A(thr_q.partition_A(products.transposed(shared.sdS)))
    tQrK = thr_q.make_fragment_B(thr_q.partition_B(products.transposed(shared.sK)))
    ds_ring = mbarriers.make_ring(config.ds_stages)
    acc_dQ = products.accumulator(context.tiled_mma_q, config.dq_columns)
    if cutlass.const_expr(not (config.ordered or config.consumer_loads)):
        loader = load.make_loader(context)
        if warp == 0:
            load.start(context, loader)

    head, block = walk.first_step(context)
    for i in cutlass.range(walk.steps(context), unroll=1):
        stage, parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_full"].wait(stage, parity)
        if cutlass.const_expr(config.ordered):
            turns.begin(context, i)
        if cutlass.const_expr(config.few_registers):
            panels = few_registers.make_panels(context, tQrK, acc_dQ)
            multiply = partial(_multiply, context, tQrdS, stage)
            few_registers.add_block(context, panels, multiply, head, block, thread_index)
        else:
            # NOTES: not unrolled, or ptxas overlaps panels, for which there are no registers.
            for panel in cutlass.range(config.panels, unroll=1):
                _multiply(context, tQrdS, stage, context.tiled_mma_q, tQrK, acc_dQ, panel)
                copies.add_panel(context, acc_dQ, head, block, panel, thread_index)
        barriers["ds_empty"].arrive_as_warp(stage)
        if cutlass.const_expr(config.ordered):
            turns.end(context, i)
        if cutlass.const_expr(not (config.ordered or config.consumer_loads)):  # noqa: SIM102
            if warp == 0:
                load.go_on(context, loader, i + config.stages)
        head, block = walk.next_step(context, head, block)
    epilogue.release_keys(context)
