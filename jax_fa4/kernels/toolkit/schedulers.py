"""Which tile a CTA works on, and in what order tiles are handed out."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32, Int64, max, min, select_

# K and V of the heads that run side by side should stay in L2; H100 has 50 MB, and
# somewhat more than half of it holds one side of a partition's traffic.
_L2_BUDGET_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class LongestFirst:
    """Tiles of one group of heads, last rows first, then the next group.

    The last rows of a causal problem see the most keys, so long tiles start first and
    short ones fill the end. Heads go in groups whose keys and values fit L2. Tile
    number t of `tiles` maps to (row block, head, batch); CTA c of g takes t = c, c + g, ...
    `divisors` are what `make_divisors` made before the launch, for divisions by multiplying: others
    take some 400 cycles more before a CTA's first load.
    """

    row_blocks: Int32
    heads: Int32
    batch: Int32
    heads_per_group: Int32
    divisors: tuple[cute.FastDivmodDivisor, ...] = ()

    @staticmethod
    def heads_that_fit_l2(heads_total: Int32, ratio: Int32, bytes_per_kv_head: Int64) -> Int32:
        """Query heads whose K and V fit the L2 budget together, at least one KV head's."""
        fit = max(Int64(_L2_BUDGET_BYTES) // bytes_per_kv_head, Int64(1))
        return Int32(min(fit * ratio, Int64(heads_total)))

    def tiles(self) -> Int32:
        return self.row_blocks * self.heads * self.batch

    def make_divisors(self) -> tuple[cute.FastDivmodDivisor, ...]:
        """Tiles of a group, heads of one, heads of the last one, heads of a batch."""
        heads_total = self.heads * self.batch
        before = (heads_total - 1) // self.heads_per_group * self.heads_per_group
        group_tiles = self.heads_per_group * self.row_blocks
        divisors = (group_tiles, self.heads_per_group, heads_total - before, self.heads)
        return tuple(cute.fast_divmod_create_divisor(divisor) for divisor in divisors)

    def decode(self, tile: Int32) -> tuple[Int32, Int32, Int32]:
        """Row block, query head and batch of tile number `tile`."""
        if self.divisors:
            return self._decode_by_divisors(tile)
        group_tiles = self.heads_per_group * self.row_blocks
        group = tile // group_tiles
        in_group = tile - group * group_tiles
        first_head = group * self.heads_per_group
        heads_here = min(self.heads_per_group, self.heads * self.batch - first_head)
        block_from_end = in_group // heads_here
        head_and_batch = first_head + in_group - block_from_end * heads_here
        batch = head_and_batch // self.heads
        return (
            self.row_blocks - 1 - block_from_end,
            head_and_batch - batch * self.heads,
            batch,
        )

    def _decode_by_divisors(self, tile: Int32) -> tuple[Int32, Int32, Int32]:
        by_group, by_heads, by_last_heads, by_batch = self.divisors
        group, in_group = divmod(tile, by_group)
        first_head = group * self.heads_per_group
        heads_left = self.heads * self.batch - first_head
        is_last = heads_left <= self.heads_per_group
        block_from_end = select_(is_last, in_group // by_last_heads, in_group // by_heads)
        heads_here = min(self.heads_per_group, heads_left)
        batch, head = divmod(first_head + in_group - block_from_end * heads_here, by_batch)
        return self.row_blocks - 1 - block_from_end, head, batch
