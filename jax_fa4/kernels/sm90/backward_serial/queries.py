"""The queries' warpgroup: dQ = dS K, summed over the blocks of keys.

Its first warp also loads, where the first consumer's does not (`consumer_loads`).

Sums go to a scratch of the CTA's own, small enough to stay in L2. Each float of it belongs to one
thread, which stores, adds to and reads it in the order of the program: no barrier, no fence, and
the same bits in every run. The block of keys that visits a block of queries last writes dq.

CONTRACT: for every step of the walk the warpgroup takes one stage of `ds`, written by all
consumers, and gives it back; one arrival a warp. Loads are as load.py says.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.backward import products
from jax_fa4.kernels.sm90.backward.config import DQ_ROWS
from jax_fa4.kernels.sm90.backward_serial import gradient_rows, load, walk
from jax_fa4.kernels.sm90.backward_serial.config import KEY_STAGES
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.bulk_copies import add_four


def _multiply(context, operands, acc_dQ, number, stage, panel) -> None:
    """dQ = dS K of one panel, the CTA's `number`th block of keys."""
    tQrdS, tQrK = operands
    consumers = context.config.consumers
    first = number % KEY_STAGES * consumers
    pairs = []
    for i in range(consumers):
        a = tQrdS[None, None, None, stage * consumers + i]
        b = tQrK[None, panel, None, first + i]
        pairs += products.by_depth(a, products.one_tile(b))
    products.issue(context.tiled_mma_q, acc_dQ, pairs, zero_first=True)
    warpgroup.wait_group(0)


def _scratch(context, head, block, thread_index) -> cute.Pointer:
    """This thread's floats of a block of queries: as `_add` of backward/queries.py has them."""
    config = context.config
    member = head - context.position.head_kv * context.ratio
    rows = (Int64(context.units.first) * context.ratio + member) * context.rows_padded
    start = (rows + block * config.tile_m) * config.head_dim
    return context.gmem.dq_accum + cute.assume(start + thread_index * 4, divby=4)


@cute.jit
def _panel(context, operands, acc_dQ, step, panel):
    """dQ of a panel; after the last one dS is given back."""
    number, stage = step
    _multiply(context, operands, acc_dQ, number, stage, panel)
    if panel + 1 == context.config.panels:
        context.barriers["ds_empty"].arrive_as_warp(stage)


@cute.jit
def _accumulate(context, operands, acc_dQ, step, place, is_first):
    """Store dQ of a step, or add it."""
    config = context.config
    flat = cute.make_tensor(acc_dQ.iterator, cute.make_layout(cute.size(acc_dQ)))
    # NOTES: not unrolled, or ptxas overlaps panels, for which there are no registers.
    for panel in cutlass.range(config.panels, unroll=1):
        _panel(context, operands, acc_dQ, step, panel)
        target = place + cute.assume(panel * (DQ_ROWS * config.dq_columns), divby=4)
        if is_first:
            for group in cutlass.range_constexpr(cute.size(acc_dQ) // 4):
                gradient_rows.store_four(target + group * 512, flat, 4 * group)
        else:
            for group in cutlass.range_constexpr(cute.size(acc_dQ) // 4):
                add_four(target + group * 512, flat, 4 * group)


@cute.jit
def _load_sums(context, sums, place, panel):
    """What the scratch has of a panel."""
    source = place + cute.assume(panel * (DQ_ROWS * context.config.dq_columns), divby=4)
    for group in cutlass.range_constexpr(cute.size(sums) // 4):
        gradient_rows.load_four(source + group * 512, sums, 4 * group)


@cute.jit
def _finish(context, operands, acc_dQ, step, place, is_first, target, sums):
    """Add dQ of a step to what the scratch has, of whose first panel are `sums`, and write it."""
    config = context.config
    flat = cute.make_tensor(acc_dQ.iterator, cute.make_layout(cute.size(acc_dQ)))
    for panel in cutlass.range(config.panels, unroll=1):
        _panel(context, operands, acc_dQ, step, panel)
        for i in cutlass.range_constexpr(cute.size(acc_dQ)):
            flat[i] = (flat[i] + sums[i]) * context.scale
        if ~is_first & (panel + 1 < config.panels):
            _load_sums(context, sums, place, panel + 1)
        gradient_rows.write(context, flat, target, panel)


@cute.jit
def _load_keys(context, number, unit, key_block, i, is_last):
    """K of the next block of keys in the first step of this one, V in the last; as a warp."""
    if walk.goes_on(context, unit, key_block):
        following = walk.following(context, unit, key_block)
        if i == 0:
            load.load_k(context, number + 1, *following)
        if is_last:
            load.load_v(context, *following)


@cute.jit
def _zero(context, first, last, thread_index):
    """dq of blocks of queries that see no key, in all of the group's heads."""
    for member in cutlass.range(context.ratio, unroll=1):
        head = context.position.head_kv * context.ratio + member
        for block in cutlass.range(first, last, unroll=1):
            gradient_rows.write_zeros(context, head, block, thread_index)


@cute.jit
def _walk_keys(context, operands, acc_dQ, ds_ring, loader, number, unit):
    """The blocks of queries that see one block of keys."""
    config, barriers = context.config, context.barriers
    key_block = context.position.key_block
    thread_index = cute.arch.thread_idx()[0] % 128
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    seen, wanted = walk.visited_before(context, key_block), walk.visited_again(context, key_block)
    _zero(context, seen, context.queries.first, thread_index)
    head, block = walk.first_step(context)
    count = walk.steps(context)
    sums = cute.make_rmem_tensor(cute.size(acc_dQ), cutlass.Float32)
    for i in cutlass.range(count, unroll=1):
        place = _scratch(context, head, block, thread_index)
        is_first, is_last = block >= seen, block < wanted
        # Before the wait for dS: a trip to L2 takes as long as a panel.
        sums.fill(0.0)
        if is_last & ~is_first:
            _load_sums(context, sums, place, 0)
        stage, parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_full"].wait(stage, parity)
        if warp == 0:
            _load_keys(context, number, unit, key_block, i, i == count - 1)
        step = (number, stage)
        if is_last:
            target = gradient_rows.rows_of(context, head, block, thread_index)
            _finish(context, operands, acc_dQ, step, place, is_first, target, sums)
        else:
            _accumulate(context, operands, acc_dQ, step, place, is_first)
        if cutlass.const_expr(loader is not None):  # noqa: SIM102
            if warp == 0:
                load.go_on(context, loader)
        head, block = walk.next_step(context, head, block)
    if key_block + 1 == context.units.key_blocks:
        blocks = cute.ceil_div(context.band.seqlen_q, config.tile_m)
        _zero(context, context.queries.last, blocks, thread_index)


@cute.jit
def run(context, warp: Int32) -> None:
    """Do all of this CTA's keys; see the contract above."""
    config, shared, units = context.config, context.shared, context.units
    thr_q = context.tiled_mma_q.get_slice(0)
    tQrdS = thr_q.make_fragment_A(thr_q.partition_A(products.transposed(shared.sdS)))
    tQrK = thr_q.make_fragment_B(thr_q.partition_B(products.transposed(shared.sK)))
    ds_ring = mbarriers.make_ring(config.ds_stages)
    acc_dQ = products.accumulator(context.tiled_mma_q, config.dq_columns)
    loader = None
    if cutlass.const_expr(not config.consumer_loads):
        loader = load.make_loader(context)
        if warp == 0:
            load.start(context, loader)
    number = Int32(0)
    for unit in cutlass.range(units.first, units.count, units.step, unroll=1):
        for key_block in cutlass.range(units.key_blocks, unroll=1):
            here = walk.at(context, unit, key_block)
            _walk_keys(here, (tQrdS, tQrK), acc_dQ, ds_ring, loader, number, unit)
            number = number + 1
