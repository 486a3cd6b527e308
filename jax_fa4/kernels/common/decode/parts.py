"""Which keys a sequence's queries see, and how they are cut into parts: a CTA's, and the merge's.

Lengths are known to the device alone, so the host fixes the largest number of parts, and the
device cuts what there really is: equal parts, of at least MIN_BLOCKS blocks; the rest stay empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32, max, min

from jax_fa4.kernels.common.decode.config import KEYS, MIN_BLOCKS, WARPS


@dataclass(frozen=True)
class Parts:
    """The keys of one sequence, first .. last, and their blocks in parts."""

    length: Int32
    first: Int32
    last: Int32
    first_block: Int32
    end_block: Int32
    blocks_of_part: Int32

    @property
    def used(self) -> Int32:
        """Parts that are not empty."""
        return cute.ceil_div(self.end_block - self.first_block, self.blocks_of_part)


def parts_of(length, capacity, seqlen_q, band, num_splits) -> Parts:
    """Of a sequence with `length` keys, read from memory and therefore any number."""
    lower, upper = band
    length = max(min(length, capacity), Int32(0))
    # The first query that exists sees least on the left, the last one most on the right.
    first = max(max(length - seqlen_q, Int32(0)) + lower, Int32(0))
    last = min(length - 1 + upper, length - 1)
    first_block = first // KEYS
    end_block = max((last + KEYS) // KEYS, first_block)
    blocks = cute.ceil_div(end_block - first_block, num_splits)
    blocks = max(cute.round_up(blocks, WARPS), Int32(MIN_BLOCKS))
    return Parts(length, first, last, first_block, end_block, blocks)
