"""What rows may see where each has bounds of its own: the arrays, and a tile's blocks of keys.

Row i of a batch element sees key j iff first[i] <= j <= last[i] and both have the same id. For each
group of 64 rows the caller says

    [min first, max last, max first, min last]

of which the first two leave out rows that see nothing, and the others are 2^30 and -1 if a row
does not see all keys between its bounds. So the keys of a tile, and the blocks that all of its
rows see whole, follow from the groups that it has: as in `block_range`, of which this is the
counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32, Int64, max, min

from jax_fa4.kernels.toolkit.block_range import BlockRange

GROUP = 64  # rows that a group sums up
_NUMBERS = 4  # of a group


@dataclass(frozen=True)
class RowBounds:
    """The arrays of one call, as (what is of one row, row of a batch element, batch)."""

    bounds: cute.Tensor  # first and last key
    query_ids: cute.Tensor  # (seqlen_q, batch)
    key_ids: cute.Tensor  # (seqlen_k, batch)
    groups: cute.Tensor  # the four numbers above


def row_bounds(pointers: tuple[cute.Pointer, ...], shape) -> RowBounds:
    """Of row_bounds, query_ids, key_ids and query_groups, as the entry points have them."""
    bounds, query_ids, key_ids, groups = pointers
    rows, keys, batch = shape.seqlen_q, shape.seqlen_k, shape.batch

    def of_rows(pointer, count, numbers):
        layout = cute.make_layout((numbers, count, batch), stride=(1, numbers, count * numbers))
        return cute.make_tensor(pointer, layout)

    def ids(pointer, count):
        return cute.make_tensor(pointer, cute.make_layout((count, batch), stride=(1, Int64(count))))

    return RowBounds(
        of_rows(bounds, rows, 2),
        ids(query_ids, rows),
        ids(key_ids, keys),
        of_rows(groups, cute.ceil_div(rows, GROUP), _NUMBERS),
    )


def _extremes(bounds: RowBounds, batch: Int32, row: Int32, rows: Int32, numbers, choices):
    """Those of `numbers` over the groups of rows [row, row + rows), at most two."""
    last_group = cute.size(bounds.groups, mode=[1]) - 1
    one = min(row // GROUP, last_group)
    other = min((row + rows - 1) // GROUP, last_group)
    return tuple(
        choose(bounds.groups[number, one, batch], bounds.groups[number, other, batch])
        for number, choose in zip(numbers, choices, strict=True)
    )


def visited_blocks(
    bounds: RowBounds, batch: Int32, row: Int32, rows: Int32, tile_n: int
) -> tuple[Int32, Int32]:
    """First block and one past the last block that rows [row, row + rows) visit, at least one."""
    begin, end = _extremes(bounds, batch, row, rows, (0, 1), (min, max))
    blocks = cute.ceil_div(cute.size(bounds.key_ids, mode=[0]), tile_n)
    first = max(min(begin // tile_n, blocks - 1), 0)
    last = max(min((end + tile_n) // tile_n, blocks), first + 1)
    return first, last


def block_range(
    bounds: RowBounds, batch: Int32, row: Int32, rows: Int32, tile_n: int
) -> BlockRange:
    """The visited blocks and, among them, those that every row sees whole."""
    first, last = visited_blocks(bounds, batch, row, rows, tile_n)
    begin, end = _extremes(bounds, batch, row, rows, (2, 3), (max, min))
    unmasked_first = max(min((begin + tile_n - 1) // tile_n, last), first)
    unmasked_last = max(min((end + 1) // tile_n, last), unmasked_first)
    return BlockRange(first, unmasked_first, unmasked_last, last, unmasked_first)
