"""Which blocks of keys a tile of queries visits, and which of them need a mask.

Row i sees key j iff band_lower <= j - i <= band_upper and j < seqlen_k. For the rows
[row, row + tile_m) and blocks of tile_n keys, walked from the last to the first:

    first               unmasked_first        unmasked_last          last
      |  masked (left)      |     unmasked         |  masked (right)  |

All are block numbers; each part is half open and may be empty. Where the band is so narrow that a
block has both of its edges, nothing is unmasked, and `left_last` says where the masked ones of the
left edge end. At least one block is visited, so that every role runs the same protocol; a tile that
sees nothing visits one block in which everything is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Boolean, Int32, max, min


@dataclass(frozen=True)
class Band:
    """The visible band and the lengths that cut it; values known at run time."""

    lower: Int32
    upper: Int32
    seqlen_q: Int32
    seqlen_k: Int32


@dataclass(frozen=True)
class BlockRange:
    """The block numbers named above."""

    first: Int32
    unmasked_first: Int32
    unmasked_last: Int32
    last: Int32
    left_last: Int32  # blocks before it may have the left edge, from it on at most the right one

    @property
    def right_first(self) -> Int32:
        """From here on blocks have the right edge, and no other."""
        return max(self.left_last, self.unmasked_last)


def cuts_nothing(band: Band) -> Boolean:
    """Whether every row sees every key."""
    return (band.upper >= band.seqlen_k - 1) & (band.lower <= 1 - band.seqlen_q)


def visited_blocks(band: Band, row: Int32, tile_m: int, tile_n: int) -> tuple[Int32, Int32]:
    """First block and one past the last block that rows [row, row + tile_m) visit."""
    last_row = min(row + tile_m, band.seqlen_q) - 1
    key_end = max(min(last_row + band.upper + 1, band.seqlen_k), 0)
    key_begin = max(row + band.lower, 0)
    blocks = cute.ceil_div(band.seqlen_k, tile_n)
    first = min(key_begin // tile_n, blocks - 1)
    last = max(cute.ceil_div(key_end, tile_n), first + 1)
    return first, last


def block_range(band: Band, row: Int32, tile_m: int, tile_n: int) -> BlockRange:
    """The visited blocks and, among them, those that every row sees whole."""
    first, last = visited_blocks(band, row, tile_m, tile_n)
    seen_by_all_end = max(min(row + band.upper + 1, band.seqlen_k), 0)
    seen_by_all_begin = max(row + tile_m - 1 + band.lower, 0)
    unmasked_last = max(min(seen_by_all_end // tile_n, last), first)
    left_last = max(min(cute.ceil_div(seen_by_all_begin, tile_n), last), first)
    unmasked_first = min(left_last, unmasked_last)
    return BlockRange(first, unmasked_first, unmasked_last, last, left_last)
