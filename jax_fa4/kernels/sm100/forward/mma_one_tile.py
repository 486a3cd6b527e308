"""The MMA warp where a CTA has one tile of queries: its blocks alternate between two slots.

CONTRACT: block by block through its tiles, number n of them all in slot n mod 2:

    S[other slot] = Q K of the next block   the next tile's first block after this tile's last
    O += P[slot] V of this block            once pv_ready says that P and O are there

so that the tensor core has the next scores to compute while softmax works on these. O is the
slot's own accumulator where there are two; o_full then ends with the last product of a tile
into each. With one, a product with V is not over yet when the next block's scores are there,
and o_full ends with each.

A slot's S and P share columns. Its next scores overwrite what this product with V reads, and
nothing but the order of the two protects it: they are of one thread, and a
tcgen05.fence::before_thread_sync between them orders the earlier before the later (PTX ISA
9.7.16.6.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm100.forward.config import P_HEAD, SLOTS, TILE_N
from jax_fa4.kernels.sm100.forward.mma import make_operands, make_progress, multiply
from jax_fa4.kernels.sm100.forward.roles import first_tile, next_tile, packed_tile
from jax_fa4.kernels.toolkit.mbarriers import (
    advance,
    make_ring,
    wait_next,
    wait_stage,
)
from jax_fa4.kernels.toolkit.tensor_memory import fence_after_sync, fence_before_sync


@dataclass(frozen=True)
class Step:
    """A block of keys: number `n` of this CTA's, `index` of the `visits` of its tile."""

    n: Int32
    index: Int32
    visits: Int32

    @property
    def slot(self) -> Int32:
        return self.n & (SLOTS - 1)


@cute.jit
def _scores(context, operands, progress, step: Step) -> None:
    """S of a block, in its slot."""
    config, barriers, ring = context.config, context.barriers, progress.ring
    if step.index == 0:
        wait_next(barriers["q_full"], progress.q_full, 0)
    a = operands.tSrQ[None, None, None, 0]
    columns = config.tensor_memory.scores_of(step.slot)
    scores = cute.make_tensor(context.tmem + columns, operands.tStS[0].layout)
    depth = cute.size(a, mode=[2]) // config.k_parts
    for part in cutlass.range_constexpr(config.k_parts):
        begin, end = part * depth, (part + 1) * depth
        wait_stage(barriers["kv_full"], ring)
        b = operands.tSrK[None, None, None, ring.stage]
        multiply(context.tiled_mma_qk, scores, a, b, begin, end, part > 0)
        barriers["kv_empty"].commit(ring.stage)
        advance(ring)
    barriers["s_full"].commit(step.slot)
    if step.index == step.visits - 1:
        barriers["q_empty"].commit(0)


@cute.jit
def _output(context, operands, progress, step: Step) -> None:
    """O += P V of a block."""
    config, barriers, ring = context.config, context.barriers, progress.ring
    t = step.n & (config.outputs - 1)
    base = context.tmem + config.tensor_memory.probabilities_of(step.slot)
    a = cute.make_tensor(
        cute.recast_ptr(base, dtype=operands.tOrP[0].dtype), operands.tOrP[0].layout
    )
    columns = config.tensor_memory.output_of(t)
    output = cute.make_tensor(context.tmem + columns, operands.tOtO[0].layout)
    whole = cute.size(a, mode=[2])
    depth, head = whole // config.v_parts, whole * P_HEAD // TILE_N
    wait_next(barriers["pv_ready"], progress.pv_ready, step.slot, counter=0, turns=SLOTS)
    fence_after_sync()
    mma = context.tiled_mma_pv
    for part in cutlass.range_constexpr(config.v_parts):
        begin, end = part * depth, (part + 1) * depth
        wait_stage(barriers["kv_full"], ring)
        b = operands.tOrV[None, None, None, ring.stage]
        accumulate = True if part > 0 else step.index >= config.outputs
        multiply(mma, output, a, b, begin, min(head, end), accumulate)
        if cutlass.const_expr(head < end):
            wait_next(barriers["p_tail"], progress.p_tail, step.slot, counter=0, turns=SLOTS)
            fence_after_sync()
            multiply(mma, output, a, b, head, end, True)
        barriers["kv_empty"].commit(ring.stage)
        advance(ring)
    if (config.outputs < SLOTS) | (step.index >= step.visits - SLOTS):
        barriers["o_full"].commit(t)
    fence_before_sync()


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    operands = make_operands(context)
    progress = make_progress(make_ring(context.config.kv_stages), 1)
    done = before = Int32(0)  # blocks of all tiles so far, and of the last of them
    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        visits = packed_tile(context, tile).visits
        for i in cutlass.range(visits, unroll=1):
            _scores(context, operands, progress, Step(done + i, i, visits))
            if done + i > 0:
                of = visits if i > 0 else before
                index = i - 1 if i > 0 else before - 1
                _output(context, operands, progress, Step(done + i - 1, index, of))
        done = done + visits
        before = visits
        tile = next_tile(context, tile)
    if done > 0:
        _output(context, operands, progress, Step(done - 1, before - 1, before))
