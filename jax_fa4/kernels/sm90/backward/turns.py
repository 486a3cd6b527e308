"""Turns: CTAs add to dQ in a fixed order, and so its bits are the same in every run.

Additions to one block of queries come in the order in which the hardware starts CTAs: nobody waits
for one that has no multiprocessor yet. CTAs of one head follow one another at one pace, in one of
two orders, which differ under a causal mask:

- By descending keys, blocks of queries upwards. Each CTA starts where the one before it has just
  been; the longest come last.
- By ascending keys, the longest first, blocks downwards. All CTAs start at the last block, so that
  each starts late by as many steps as CTAs of its head started together with it and before it.
  Right where these are few, as in pairs of CTAs, or steps many as heads share keys: then all heads
  of a block come before the next, as a CTA would catch up with a longer one from head to head.

A block of queries has a semaphore that counts the CTAs whose additions are over. The warps here
wait for it and count, since each of the two takes as long as a trip to memory; they have the steps
of the walk by turns. The queries' warpgroup hears of its turns by one barrier, and tells of the
ends of its additions by another.

| barrier | stages     | arrival                                 | whoever waits                  |
| turn    | turn_warps | of one thread: those before are counted | the queries' warps, before dQ  |
| done    | turn_warps | of the queries' 4 warps, after dQ       | that thread, which then counts |

CONTRACT: for each of its steps of the walk a warp here ends one phase of `turn` and waits for one
of `done`; the queries' warpgroup does the reverse.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, max, min, select_

from jax_fa4.kernels.sm90.backward import walk
from jax_fa4.kernels.sm90.backward.config import DQ_ROWS
from jax_fa4.kernels.toolkit import semaphores
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import Shape
from jax_fa4.kernels.toolkit.mbarriers import MbarrierSpec
from jax_fa4.kernels.toolkit.query_range import last_visitor
from jax_fa4.kernels.toolkit.schedulers import LongestFirst

_WARPS = 4  # of the queries' warpgroup
_FEW_BLOCKS = 3  # by ascending keys if fewer
_MULTIPROCESSORS = 132  # of an H100, by which orders are chosen: sums have one on every GPU


def mbarrier_table(config) -> dict[str, MbarrierSpec]:
    """Name -> (stages, arrivals) of the barriers above."""
    if not config.ordered:
        return {}
    stages = config.turn_warps
    return {"turn": MbarrierSpec(stages, 1), "done": MbarrierSpec(stages, _WARPS)}


def order(
    scheduler: LongestFirst, shape: Shape, sm_count: Int32, config
) -> tuple[LongestFirst, Int32]:
    """How tiles are handed out, and 1 if by descending keys, else 0; see above.

    A tile is a cluster's. NOTES: more heads a group than stay in L2 are right by ascending keys,
    where CTAs of one head read a block of queries soon after one another; by descending keys they
    cost up to half of the speed.
    """
    heads, clusters = scheduler.heads_per_group, sm_count // config.ctas
    few = heads * _FEW_BLOCKS < _MULTIPROCESSORS // config.ctas
    upwards = (shape.ratio == 1) & few & (not config.ascends)
    beside = min(max(heads, clusters // config.blocks_of_a_head), shape.heads_kv * shape.batch)
    heads = select_(upwards, heads, beside)
    scheduler = LongestFirst(scheduler.row_blocks, shape.heads_kv, shape.batch, heads)
    return scheduler, select_(upwards, Int32(1), Int32(0))


def first_visitor(band: Band, block: Int32, tile_m: int, tile_n: int) -> Int32:
    """The first block of keys whose `query_range` has `block`, of which there is one.

    Those that have it follow one another, since neither end of the range moves back from one to
    the next: so the first is the one that first ends past it. Keys that nothing sees, as they come
    before those that the first row sees, visit block 0.
    """
    seen = max(block * tile_m + band.lower, 0) // tile_n
    return min(block, 1) * seen


@cute.jit
def begin(context, step) -> None:
    """As the queries' warpgroup: until the block of queries of this step may be added to."""
    warps = context.config.turn_warps
    context.barriers["turn"].wait(step % warps, step // warps % 2)


@cute.jit
def end(context, step) -> None:
    """As a warp of it, which has added to the block."""
    context.barriers["done"].arrive_as_warp(step % context.config.turn_warps)


@cute.jit
def _oversee(context, step, head, block) -> None:
    """Of one thread: wait for a block's turn, then for its additions, and count them."""
    config, barriers = context.config, context.barriers
    row = (Int64(context.position.batch) * context.heads_q + head) * context.rows_padded
    semaphore = context.gmem.semaphores + (row // DQ_ROWS + block)
    keys = config.ctas * config.tile_n
    number = context.position.key_block // config.ctas
    before = select_(
        context.upwards == 1,
        last_visitor(context.band, block, config.tile_m, keys) - number,
        number - first_visitor(context.band, block, config.tile_m, keys),
    )
    stage, parity = step % config.turn_warps, step // config.turn_warps % 2
    semaphores.wait_for_sums(semaphore, before * config.ctas)
    barriers["turn"].arrive(stage)
    barriers["done"].wait(stage, parity)
    semaphores.count_sums(semaphore)


@cute.jit
def run(context, number: Int32) -> None:
    """Walk this CTA's blocks of queries as warp `number` of those here; see the contract above."""
    head, block = walk.first_step(context)
    with cute.arch.elect_one():
        for step in cutlass.range(walk.steps(context), unroll=1):
            if step % context.config.turn_warps == number:
                _oversee(context, step, head, block)
            head, block = walk.next_step(context, head, block)
