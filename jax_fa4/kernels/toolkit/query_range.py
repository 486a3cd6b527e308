"""Which blocks of queries see a block of keys, and which of them need a mask.

The forward's question turned round (block_range.py). Row i sees key j iff
band_lower <= j - i <= band_upper and j < seqlen_k, so the keys [key, key + tile_n) are seen from
rows key - band_upper .. key + tile_n - 1 - band_lower. Blocks of tile_m rows, walked upwards:

    first               unmasked_first        unmasked_last          last
      |  masked (upper)     |     unmasked         |  masked (lower)  |

Rows past seqlen_q ask for no mask: their log-sum-exp is +inf, and their probabilities 0. Keys past
seqlen_k do, so a block that has any leaves nothing unmasked. At least one block is visited, so that
every role runs the same protocol; keys that nothing sees visit one in which everything is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Boolean, Int32, max, min

from jax_fa4.kernels.toolkit.block_range import Band

_FAR = 1 << 30  # more than there are blocks of keys


@dataclass(frozen=True)
class QueryRange:
    """The block numbers named above."""

    first: Int32
    unmasked_first: Int32
    unmasked_last: Int32
    last: Int32

    def needs_mask(self, block: Int32) -> Boolean:
        return (block < self.unmasked_first) | (block >= self.unmasked_last)


def last_visitor(band: Band, block: Int32, tile_m: int, tile_n: int) -> Int32:
    """The last block of keys whose `query_range` has `block`, of which there is one.

    Those that have it follow one another, since neither end of the range moves back from one to
    the next: so the last is the one that still starts there or before.
    """
    end = block * tile_m + tile_m
    starting = max(end - 1 + band.upper, 0) // tile_n
    # Keys that nothing sees visit the last block.
    is_last = max(min(end - band.seqlen_q + 1, 1), 0)
    return min(starting + is_last * _FAR, (band.seqlen_k - 1) // tile_n)


def query_range(band: Band, key: Int32, tile_m: int, tile_n: int) -> QueryRange:
    """The blocks of queries that see keys [key, key + tile_n); `key` is below seqlen_k."""
    last_key = min(key + tile_n, band.seqlen_k) - 1
    row_begin = max(key - band.upper, 0)
    row_end = max(min(last_key - band.lower, band.seqlen_q - 1) + 1, 0)
    blocks = cute.ceil_div(band.seqlen_q, tile_m)
    first = min(row_begin // tile_m, blocks - 1)
    last = max(cute.ceil_div(row_end, tile_m), first + 1)

    seen_from = max(key + tile_n - 1 - band.upper, 0)
    # One past the last row that sees the block's first key; bounded before the sum, which
    # lengths and bounds up to 2^30 would bring past 32 bits.
    seen_to = max(min(key - band.lower, band.seqlen_q + tile_m) + 1, 0)
    unmasked_first = max(min(cute.ceil_div(seen_from, tile_m), last), first)
    whole = min(band.seqlen_k - key, tile_n) // tile_n  # 0 where keys past seqlen_k need a mask
    unmasked_last = max(min(seen_to // tile_m * whole, last), unmasked_first)
    return QueryRange(first, unmasked_first, unmasked_last, last)
