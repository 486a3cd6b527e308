"""The senders: warps that add dQ to global memory in a fixed order.

Additions to one block of queries come by descending keys, which is also the order in which the
hardware starts CTAs: nobody waits for one that has no multiprocessor yet. Blocks of queries are
walked upwards. So under a causal mask or a window each CTA starts where the one before it has just
been, and all go on at one pace; without a mask they follow one another.

The queries' warpgroup leaves panels of dQ in shared memory. A thread of a sender adds them to
dq_accum by bulk copies. A block of queries has a semaphore that counts the CTAs whose additions are
over. Senders take turns by blocks, since waiting for one's turn, then for one's additions, and
telling the next CTA all take as long as a trip to memory.

CONTRACT: for each of its steps of the walk a sender takes the panels from their slots of `dq`, one
after the other, and gives each slot back once.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from jax_fa4.kernels.sm90.backward import walk
from jax_fa4.kernels.sm90.backward.config import DQ_ROWS
from jax_fa4.kernels.toolkit import bulk_rows, semaphores
from jax_fa4.kernels.toolkit.query_range import last_visitor

_THREADS = 128
_VECTOR = 4  # floats of 16 bytes


def _slot(config, step, panel):
    """Where a panel of this step of the walk is staged, and the parity of that use of it.

    Slots are a sender's own, so that it waits for every use of each.
    """
    uses = config.panels // config.staged_panels  # of a slot in a step
    number = step // config.senders * uses + panel // config.staged_panels
    slot = step % config.senders * config.staged_panels + panel % config.staged_panels
    return slot, number & 1


@cute.jit
def stage(context, step, panel, acc_dQ, thread_index) -> None:
    """As the queries' warpgroup: a panel of dQ, in the order of its registers, to shared memory."""
    barriers = context.barriers
    slot, parity = _slot(context.config, step, panel)
    barriers["dq_empty"].wait(slot, parity ^ 1)
    place = context.shared.dq + slot * context.config.panel_floats
    place = place + cute.assume(thread_index * _VECTOR, divby=_VECTOR)
    for i in cutlass.range_constexpr(0, cute.size(acc_dQ), _VECTOR):
        four = cute.make_tensor(acc_dQ.iterator + i, cute.make_layout(_VECTOR))
        target = cute.make_tensor(place + i * _THREADS, cute.make_layout(_VECTOR))
        cute.autovec_copy(four, target)
    cute.arch.fence_view_async_shared()
    barriers["dq_full"].arrive_as_warp(slot)


@cute.jit
def _send(context, step, head, block) -> None:
    """Of one thread: the panels of a block, when its turn has come, until they are added."""
    config = context.config
    full, empty = context.barriers["dq_full"], context.barriers["dq_empty"]
    row = (Int64(context.position.batch) * context.heads_q + head) * context.rows_padded
    number = row // DQ_ROWS + block
    semaphore = context.gmem.semaphores + number
    last = last_visitor(context.band, block, config.tile_m, config.tile_n)
    semaphores.wait_for(semaphore, last - context.position.key_block)
    target = context.gmem.dq_accum + number * (DQ_ROWS * config.head_dim)
    before, _ = _slot(config, step, 0)
    for panel in cutlass.range_constexpr(config.panels):
        slot, parity = _slot(config, step, panel)
        full.wait(slot, parity)
        source = context.shared.dq + slot * config.panel_floats
        bulk_rows.add(source, target + panel * config.panel_floats, config.panel_floats)
        cute.arch.cp_async_bulk_commit_group()
        if cutlass.const_expr(panel > 0):
            cute.arch.cp_async_bulk_wait_group(1, read=True)
            empty.arrive(before)
        before = slot
    cute.arch.cp_async_bulk_wait_group(0, read=True)
    empty.arrive(before)
    cute.arch.cp_async_bulk_wait_group(0, read=False)
    semaphores.count_one(semaphore)


@cute.jit
def run(context, sender: Int32) -> None:
    """Walk this CTA's blocks of queries as one of the senders; see the contract above."""
    head, block = walk.first_step(context)
    # One thread, since bulk groups are a thread's own.
    with cute.arch.elect_one():
        for step in cutlass.range(walk.steps(context), unroll=1):
            if step % context.config.senders == sender:
                _send(context, step, head, block)
            head, block = walk.next_step(context, head, block)
