"""The reduce warpgroup: sends dQ out of tensor memory; thread i owns query i.

CONTRACT: for every visit it takes dQ at dq_full, and arrives at dq_empty as soon as the last is in
registers. Each warp then adds its 32 queries to `dq_accum` on its own, CHUNK columns at a time, by
bulk copies of float32 that add (cp.reduce.async.bulk). Between a piece's store to shared memory and
the next one to the same stage stands the wait for the piece's bulk group.

A tile of dq_accum is four pieces, one a warp, each of 32 rows; in it, element (row, column) is at

    column / 4 * 128 + row * 4 + column mod 4

so that a warp's stores of 16 bytes a thread are contiguous, and so is what a bulk copy takes.

Deterministic: the CTAs of a head add to a tile one after the other, by ascending keys. That is also
the order in which the hardware starts them, so that nobody waits for a CTA that has no
multiprocessor yet. The tile's semaphore counts warps that are done: a warp waits until those of
all CTAs before this one are, which `roles.turn_of` counts. It says that it is done with a tile
when it comes to the next one: by then the additions are over, and nothing waits for memory.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from jax_fa4.kernels.sm100.backward.config import CHUNK, TILE, WARP_SIZE
from jax_fa4.kernels.sm100.backward.context import WARPS
from jax_fa4.kernels.sm100.backward.roles import next_visit, place_of, turn_of, work_of
from jax_fa4.kernels.toolkit import bulk_rows, semaphores, tensor_memory
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next

_PIECE = WARP_SIZE * CHUNK  # floats that a warp sends at a time
_VECTOR = 4  # floats of 16 bytes
_SEMAPHORES = 2  # a tile: there is one for 64 queries, of which the first serves


@cute.jit
def _take(context, uses, warp: Int32, part: cutlass.Constexpr) -> cute.Tensor:
    """This thread's row of dQ, or a part of it, out of tensor memory."""
    config, barriers = context.config, context.barriers
    columns = config.head_dim // config.dq_parts
    base = context.tmem + config.tensor_memory.dq + part * columns
    if cutlass.const_expr(part == 0):
        wait_next(barriers["dq_full"], uses, 0)
        tensor_memory.fence_after_sync()
    row = cute.make_rmem_tensor(columns, Float32)
    for first in cutlass.range_constexpr(0, columns, CHUNK):
        chunk = cute.make_tensor(row.iterator + first, cute.make_layout(CHUNK))
        tensor_memory.load(base + first, chunk, WARP_SIZE * warp)
    tensor_memory.wait_loads()
    if cutlass.const_expr(part == config.dq_parts - 1):
        tensor_memory.fence_before_sync()
        barriers["dq_empty"].arrive_as_warp(0)
    return row


@cute.jit
def _send(
    context, row: cute.Tensor, staging: cute.Pointer, target: cute.Pointer, lane: Int32
) -> None:
    """`row` of each lane of the warp onto `target`."""
    stages = context.config.dq_stages
    for chunk in cutlass.range_constexpr(cute.size(row) // CHUNK):
        piece = staging + chunk % stages * _PIECE
        if lane == 0:
            # All but the pieces of the other stages have been read.
            cute.arch.cp_async_bulk_wait_group(stages - 1, read=True)
        cute.arch.sync_warp()
        for c in cutlass.range_constexpr(0, CHUNK, _VECTOR):
            source = cute.make_tensor(row.iterator + chunk * CHUNK + c, cute.make_layout(_VECTOR))
            place = piece + (cute.assume(lane * _VECTOR, divby=_VECTOR) + c * WARP_SIZE)
            cute.autovec_copy(source, cute.make_tensor(place, cute.make_layout(_VECTOR)))
        cute.arch.fence_view_async_shared()
        cute.arch.sync_warp()
        if lane == 0:
            bulk_rows.add(piece, target + chunk * _PIECE, _PIECE)
            cute.arch.cp_async_bulk_commit_group()


@cute.jit
def _take_turn(context, work, place: Int64, block: Int32, lane: Int32) -> None:
    """Wait until the CTAs before this one have added to block of queries `block`."""
    if lane == 0:
        others = WARPS * turn_of(context.band, work.key, block)
        semaphores.wait_for(context.gmem.semaphores + place * _SEMAPHORES, others)
    cute.arch.sync_warp()


@cute.jit
def _end_turn(context, place: Int64, lane: Int32) -> None:
    """Say that this warp's additions to the block are over, once they are."""
    if lane == 0:
        cute.arch.cp_async_bulk_wait_group(0, read=False)
        semaphores.count_one(context.gmem.semaphores + place * _SEMAPHORES)


@cute.jit
def run(context) -> None:
    """See the contract above."""
    work, width = work_of(context), context.config.head_dim
    thread = cute.arch.thread_idx()[0] % TILE
    warp = cute.arch.make_warp_uniform(thread // WARP_SIZE)
    lane = thread % WARP_SIZE
    staging = context.shared.dq + warp * (context.config.dq_stages * _PIECE)
    uses = make_counters(1)
    head, block = work.head_kv * context.ratio, work.first
    before = Int64(-1)  # the block of the visit before
    for _ in cutlass.range(work.visits, unroll=1):
        row = _take(context, uses, warp, 0)
        place = place_of(context, work, head, block)
        if cutlass.const_expr(context.deterministic):
            if before >= 0:
                _end_turn(context, before, lane)
            _take_turn(context, work, place, block, lane)
        target = context.gmem.dq_accum + (place * TILE + warp * WARP_SIZE) * width
        _send(context, row, staging, target, lane)
        for part in cutlass.range_constexpr(1, context.config.dq_parts):
            row = _take(context, uses, warp, part)
            _send(context, row, staging, target + part * cute.size(row) * WARP_SIZE, lane)
        head, block = next_visit(work, head, block)
        before = place
    if cutlass.const_expr(context.deterministic):
        _end_turn(context, before, lane)
    elif lane == 0:
        cute.arch.cp_async_bulk_wait_group(0, read=False)
