"""What the queries of a call see where every row has bounds of its own, as kernels read it.

Row i sees key j iff row_bounds[i, 0] <= j <= row_bounds[i, 1] and query_ids[i] == key_ids[j]. A
group is 64 rows, or 64 keys; of each, the call's tables say (all inclusive):

    query_groups   the keys that some row sees are between the first two numbers; keys between the
                   last two every row sees. Where there are none: 2^30, -1
    key_groups     the rows that see some key are between the two numbers, if any: else 2^30, -1

All of it is a batch element's, the same for its heads, and read by ordinary loads: so every role
of a CTA that asks gets the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, max, min

GROUP = 64  # rows or keys
_QUERY_NUMBERS, _KEY_NUMBERS = 4, 2  # of a group
_FAR = 1 << 30


@dataclass(frozen=True)
class KeyBounds:
    """The tables of one call, int32, and the lengths that cut them."""

    row_bounds: cute.Pointer  # (batch, seqlen_q, 2)
    query_ids: cute.Pointer  # (batch, seqlen_q)
    key_ids: cute.Pointer  # (batch, seqlen_k)
    query_groups: cute.Pointer  # (batch, groups, 4)
    seqlen_q: Int32
    seqlen_k: Int32
    key_groups: cute.Pointer | None = None  # (batch, groups, 2); the backward's


@dataclass(frozen=True)
class Keys:
    """Keys by number, inclusive: of a tile of queries."""

    first: Int32  # outside of these no row sees any
    last: Int32
    whole_first: Int32  # within these every row sees all
    whole_last: Int32

    def are_whole(self, first: Int32, last: Int32) -> Boolean:
        """Whether every row sees each of these keys."""
        return (first >= self.whole_first) & (last <= self.whole_last)


@dataclass(frozen=True)
class Row:
    """One row's bounds, inclusive, and its id."""

    first: Int32
    last: Int32
    id: Int32


def _load(table: cute.Pointer, index: Int64, numbers: int) -> cute.Tensor:
    """Numbers `index * numbers` and on, by one load."""
    source = table + cute.assume(index * numbers, divby=numbers)
    loaded = cute.make_rmem_tensor(numbers, Int32)
    cute.autovec_copy(cute.make_tensor(source, cute.make_layout(numbers)), loaded)
    return loaded


def keys_of(bounds: KeyBounds, batch: Int32, group: Int32, groups: int = 1) -> Keys:
    """Of the rows of `groups` groups from `group` on; those past the end count for nothing."""
    count = cute.ceil_div(bounds.seqlen_q, GROUP)
    first, last, whole_first, whole_last = Int32(_FAR), Int32(-1), Int32(0), Int32(_FAR)
    for i in range(groups):
        number = Int64(batch) * count + min(group + i, count - 1)
        found = _load(bounds.query_groups, number, _QUERY_NUMBERS)
        first, last = min(first, found[0]), max(last, found[1])
        whole_first, whole_last = max(whole_first, found[2]), min(whole_last, found[3])
    return Keys(first, last, whole_first, whole_last)


def queries_of(bounds: KeyBounds, batch: Int32, group: Int32, groups: int) -> tuple[Int32, Int32]:
    """First and last row that sees a key of `groups` groups from `group` on; 2^30, -1: none."""
    count = cute.ceil_div(bounds.seqlen_k, GROUP)
    first, last = Int32(_FAR), Int32(-1)
    for i in range(groups):
        number = Int64(batch) * count + min(group + i, count - 1)
        found = _load(bounds.key_groups, number, _KEY_NUMBERS)
        first, last = min(first, found[0]), max(last, found[1])
    return first, last


def blocks_between(first: Int32, last: Int32, length: Int32, tile: int) -> tuple[Int32, Int32]:
    """The first block, and one past the last, with any of `first` .. `last` of `length`.

    At least one, so that every role runs the same protocol: where there are none, the last.
    """
    begin = min(first // tile, (length - 1) // tile)
    end = (min(last, length - 1) + tile) // tile
    return begin, max(end, begin + 1)


def row_of(bounds: KeyBounds, batch: Int32, row: Int32) -> Row:
    """Of a row, or of the last where it is past the end."""
    number = Int64(batch) * bounds.seqlen_q + min(row, bounds.seqlen_q - 1)
    found = _load(bounds.row_bounds, number, 2)
    return Row(found[0], found[1], _load(bounds.query_ids, number, 1)[0])


def key_id_of(bounds: KeyBounds, batch: Int32, key: Int32) -> Int32:
    """Of a key, or of the last where it is past the end: no row's bounds reach there."""
    number = Int64(batch) * bounds.seqlen_k + min(key, bounds.seqlen_k - 1)
    return _load(bounds.key_ids, number, 1)[0]
