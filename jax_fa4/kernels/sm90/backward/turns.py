"""Turns: CTAs add to dQ in a fixed order, and so its bits are the same in every run.

Additions to one block of queries come by descending keys, which is also the order in which the
hardware starts CTAs: nobody waits for one that has no multiprocessor yet. Blocks of queries are
walked upwards. So under a causal mask or a window each CTA starts where the one before it has just
been, and all go on at one pace; without a mask they follow one another.

A block of queries has a semaphore that counts the CTAs whose additions are over. The warps here
wait for it and count, since each of the two takes as long as a trip to memory; they have alternate
steps of the walk. The queries' warpgroup hears of its turns by one barrier, and tells of the ends
of its additions by another.

| barrier | stages     | arrival                                 | whoever waits                  |
| turn    | turn_warps | of one thread: those before are counted | the queries' warps, before dQ  |
| done    | turn_warps | of the queries' 4 warps, after dQ       | that thread, which then counts |

CONTRACT: for each of its steps of the walk a warp here ends one phase of `turn` and waits for one
of `done`; the queries' warpgroup does the reverse.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from jax_fa4.kernels.sm90.backward import walk
from jax_fa4.kernels.sm90.backward.config import DQ_ROWS
from jax_fa4.kernels.toolkit import semaphores
from jax_fa4.kernels.toolkit.query_range import last_visitor


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
    last = last_visitor(context.band, block, config.tile_m, config.tile_n)
    stage, parity = step % config.turn_warps, step // config.turn_warps % 2
    semaphores.wait_for_sums(semaphore, last - context.position.key_block)
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
