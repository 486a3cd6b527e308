"""The reduce warpgroup of a CTA of a pair: sends dQ of its 64 queries out of tensor memory.

CONTRACT: for every visit it takes dQ at dq_full, and arrives at dq_empty as soon as all of it is in
registers. Warp w has 32 queries, part rank + 2 (w mod 2) of the block's four, and half w / 2 of the
columns; it adds them to `dq_accum` on its own, in the order that `backward.reduce` describes, where
a part is a piece of its own, and so are the columns of a half in it.

Deterministic: pairs take turns as lone CTAs do there. The two CTAs of a pair add to different
queries, so each counts by a semaphore of its own, of the two that 128 queries have.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from jax_fa4.kernels.sm100.backward.config import TILE, WARP_SIZE
from jax_fa4.kernels.sm100.backward.context import WARPS
from jax_fa4.kernels.sm100.backward.roles import next_visit, place_of, turn_of
from jax_fa4.kernels.sm100.backward_pair.config import PAIR, PAIR_KEYS, PART
from jax_fa4.kernels.sm100.backward_pair.roles import work_of
from jax_fa4.kernels.toolkit import bulk_rows, semaphores, tensor_memory
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next

_VECTOR = 4  # floats of 16 bytes
_LOAD = 32  # columns that one instruction loads


@cute.jit
def _take(context, uses, lane: Int32) -> cute.Tensor:
    """This thread's half row of dQ, out of tensor memory."""
    config, barriers = context.config, context.barriers
    base = context.tmem + config.tensor_memory.dq
    wait_next(barriers["dq_full"], uses, 0)
    tensor_memory.fence_after_sync()
    row = cute.make_rmem_tensor(config.head_dim // PAIR, Float32)
    for first in cutlass.range_constexpr(0, cute.size(row), _LOAD):
        part = cute.make_tensor(row.iterator + first, cute.make_layout(_LOAD))
        tensor_memory.load(base + first, part, lane)
    tensor_memory.wait_loads()
    tensor_memory.fence_before_sync()
    barriers["dq_empty"].arrive_as_warp(0)
    return row


@cute.jit
def _send(
    context, row: cute.Tensor, staging: cute.Pointer, target: cute.Pointer, lane: Int32
) -> None:
    """`row` of each lane of the warp onto `target`."""
    config = context.config
    stages, columns, piece = config.dq_stages, config.dq_chunk, config.dq_piece
    for chunk in cutlass.range_constexpr(cute.size(row) // columns):
        stage = staging + chunk % stages * piece
        if lane == 0:
            # All but the pieces of the other stages have been read.
            cute.arch.cp_async_bulk_wait_group(stages - 1, read=True)
        cute.arch.sync_warp()
        for c in cutlass.range_constexpr(0, columns, _VECTOR):
            source = cute.make_tensor(row.iterator + chunk * columns + c, cute.make_layout(_VECTOR))
            place = stage + (cute.assume(lane * _VECTOR, divby=_VECTOR) + c * WARP_SIZE)
            cute.autovec_copy(source, cute.make_tensor(place, cute.make_layout(_VECTOR)))
        cute.arch.fence_view_async_shared()
        cute.arch.sync_warp()
        if lane == 0:
            bulk_rows.add(stage, target + chunk * piece, piece)
            cute.arch.cp_async_bulk_commit_group()


def _semaphore(context, place: Int64) -> cute.Pointer:
    """Counts the warps that have added to this CTA's queries of a block."""
    return context.gmem.semaphores + (place * PAIR + context.rank)


@cute.jit
def _take_turn(context, work, place: Int64, block: Int32, lane: Int32) -> None:
    """Wait until the pairs before this one have added to block of queries `block`."""
    if lane == 0:
        others = WARPS * turn_of(context.band, work.pair_key, block, PAIR_KEYS)
        semaphores.wait_for(_semaphore(context, place), others)
    cute.arch.sync_warp()


@cute.jit
def _end_turn(context, place: Int64, lane: Int32) -> None:
    """Say that this warp's additions to the block are over, once they are."""
    if lane == 0:
        cute.arch.cp_async_bulk_wait_group(0, read=False)
        semaphores.count_one(_semaphore(context, place))


@cute.jit
def run(context) -> None:
    """See the contract above."""
    config, work = context.config, work_of(context)
    width = config.head_dim
    thread = cute.arch.thread_idx()[0] % TILE
    warp = cute.arch.make_warp_uniform(thread // WARP_SIZE)
    lane = thread % WARP_SIZE
    staging = context.shared.dq + warp * (config.dq_stages * config.dq_piece)
    first_row = (context.rank + warp % PAIR * PAIR) * PART
    offset = warp // PAIR * (width // PAIR * PART)
    uses = make_counters(1)
    head, block = work.head_kv * context.ratio, work.first
    before = Int64(-1)  # the block of the visit before
    for _ in cutlass.range(work.visits, unroll=1):
        row = _take(context, uses, WARP_SIZE * warp)
        place = place_of(context, work, head, block)
        if cutlass.const_expr(context.deterministic):
            if before >= 0:
                _end_turn(context, before, lane)
            _take_turn(context, work, place, block, lane)
        target = context.gmem.dq_accum + ((place * TILE + first_row) * width + offset)
        _send(context, row, staging, target, lane)
        head, block = next_visit(work, head, block)
        before = place
    if cutlass.const_expr(context.deterministic):
        _end_turn(context, before, lane)
    elif lane == 0:
        cute.arch.cp_async_bulk_wait_group(0, read=False)
