"""Which queries see a compute thread's key, where rows have bounds of their own."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Uint32

from jax_fa4.kernels.sm100.backward.config import HALF, TILE, WARP_SIZE
from jax_fa4.kernels.toolkit import key_bounds, visible_words
from jax_fa4.kernels.toolkit.key_bounds import GROUP
from jax_fa4.kernels.toolkit.masks import mask_row_by_words

ALL = 0xFFFFFFFF  # of 32


@cute.jit
def visible(context, row, work, block: Int32):
    """Which queries of this half see this thread's key, and whether all do, of the CTA's keys.

    Words of bits. Asked before the scores are there.
    """
    words = cute.make_rmem_tensor(HALF // WARP_SIZE, Uint32)
    words.fill(Uint32(ALL))
    keys = key_bounds.keys_of(context.bounds, work.batch, block * (TILE // GROUP), TILE // GROUP)
    is_whole = keys.are_whole(work.key, work.key + TILE - 1)
    if not is_whole:
        key, query = work.key + row.lane, block * TILE + row.half * HALF
        found = visible_words.of_key(
            context.bounds, work.batch, key, query, row.thread % WARP_SIZE, HALF // WARP_SIZE
        )
        for i in cutlass.range_constexpr(HALF // WARP_SIZE):
            words[i] = found[i]
    return words, is_whole


@cute.jit
def mask_by_words(scores: cute.Tensor, words: cute.Tensor, is_whole: Boolean) -> None:
    """Hide the scores whose bits are not set, unless all are."""
    if not is_whole:
        mask_row_by_words(scores, words)
