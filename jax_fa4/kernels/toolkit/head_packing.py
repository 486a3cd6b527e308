"""Query heads of one KV head as further rows of a tile, for few queries.

A tile of 128 rows holds `tokens` positions of each of 128 / tokens query heads that share a KV
head, head by head: row r is position r % tokens of head r // tokens of its group. K and V are then
read once for all of them, and one query of 16 heads is one tile, not 16. Powers of two from 8
tokens on, so that rows still move in boxes of 8, the period of the 128-byte swizzle; a group may
hold fewer heads than it has room for, and rows without a head are computed and not stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, min
from cutlass.cute.nvgpu import cpasync

ROWS = 128
BOX_ROWS = 8  # that move together,
BOX_COLUMNS = 64  # of 16 bits: the 128 bytes of a swizzled row
_MOST_HEADS = ROWS // BOX_ROWS


@dataclass(frozen=True)
class HeadPacking:
    """How rows of tiles map to heads and positions; numbers of the device or plain ones."""

    tokens: Int32  # positions a tile: 128, or fewer where heads are packed
    ratio: Int32  # query heads a KV head

    @property
    def heads(self) -> Int32:
        """Room for so many heads in a tile."""
        return ROWS // self.tokens

    @property
    def groups(self) -> Int32:
        """Tiles a KV head for every `tokens` positions."""
        return cute.ceil_div(self.ratio, self.heads)

    def first_head(self, group: Int32) -> Int32:
        """Query head of row 0 of the tiles of this group, counted over all KV heads."""
        head_kv = group // self.groups
        return head_kv * self.ratio + (group - head_kv * self.groups) * self.heads

    def heads_from(self, head: Int32) -> Int32:
        """How many heads the tiles hold whose row 0 is of `head`."""
        return min(self.heads, self.ratio - head % self.ratio)

    def place_of(self, row: Int32) -> tuple[Int32, Int32]:
        """(head, position) of `row` of a tile, both counted from the tile's first."""
        head = row // self.tokens
        return head, row - head * self.tokens


@cute.jit
def fewest_tiles(seqlen_q: Int32, ratio: Int32, ctas: cutlass.Constexpr) -> Int32:
    """The `tokens` that give the fewest tiles; the most of them, where several do.

    Of `ctas` that work on a tile together, each has as many further positions.
    """
    best, tokens = cute.ceil_div(seqlen_q, ctas * ROWS) * ratio, Int32(ROWS)
    for log2_heads in cutlass.range_constexpr(1, _MOST_HEADS.bit_length()):
        candidate = ROWS >> log2_heads
        tiles = cute.ceil_div(seqlen_q, ctas * candidate) * cute.ceil_div(ratio, 1 << log2_heads)
        fewer = tiles < best
        best = tiles if fewer else best
        tokens = Int32(candidate) if fewer else tokens
    return tokens


def box_partition(tma, tensor: cute.Tensor, shared: cute.Tensor) -> tuple[cute.Tensor, cute.Tensor]:
    """(boxes of `tensor` by row and column of boxes, boxes of `shared` by stage) for one `tma`."""
    tiled = cute.local_tile(tensor, (BOX_ROWS, BOX_COLUMNS), (None, None))
    staged, boxes = cpasync.tma_partition(
        tma, 0, cute.make_layout(1), cute.group_modes(shared, 0, 2), cute.group_modes(tiled, 0, 2)
    )
    return boxes, staged
