"""Queries from global memory into fragments, and blocks of the cache into a warp's ring."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, max, min
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.common.decode.config import KEYS, ROWS

_DEPTH = 16  # columns of a step of the product


@cute.jit
def queries(context) -> cute.Tensor:
    """The operand A of all steps, four words each: zeros past the rows and the columns."""
    q = context.queries
    steps = context.config.head_dim // _DEPTH
    words = cute.make_rmem_tensor(4 * steps, Int32)
    words.fill(0)
    source = cute.recast_ptr(q.pointer, dtype=Int32)
    for half in cutlass.range_constexpr(2):
        row = q.row(context.team.member * ROWS + context.lane // 4 + 8 * half)
        if row < q.rows:
            start = q.token(row) * (q.head_dim // 2) + context.lane % 4
            line = cute.make_tensor(source + start, cute.make_layout(8 * steps))
            for step in cutlass.range_constexpr(steps):
                for side in cutlass.range_constexpr(2):
                    if _DEPTH * step + 8 * side < q.head_dim:
                        words[4 * step + 2 * side + half] = line[8 * step + 4 * side]
    return words


@cute.jit
def block(context, number, place) -> None:
    """Ask for keys 16 number .. 16 number + 15 and their values, into a stage of the rings."""
    cache, c = context.cache, context.config
    slot = number * KEYS // cache.page_size
    row = number * KEYS - slot * cache.page_size
    page = cute.make_tensor(cache.page_table + slot, cute.make_layout(1))[0]
    page = max(min(page, cache.num_pages - 1), Int32(0))
    barrier = context.full + place
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(barrier, c.key_bytes + c.value_bytes)
    _copy(context, cache.k, context.sK, c.head_dim, page, row, place, barrier)
    _copy(context, cache.v, context.sV, c.head_dim_v, page, row, place, barrier)


@cute.jit
def _copy(
    context,
    source,
    ring: cute.Tensor,
    columns: cutlass.Constexpr,
    page: Int32,
    row: Int32,
    place: Int32,
    barrier: cute.Pointer,
) -> None:
    tma, pages = source
    boxes = cute.local_tile(
        pages[None, None, context.queries.head_kv, page], (KEYS, columns), (None, 0)
    )
    destination, from_boxes = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(ring, 0, 2),
        cute.group_modes(boxes, 0, 2),
    )
    cute.copy(tma, from_boxes[None, row // KEYS], destination[None, place], tma_bar_ptr=barrier)
