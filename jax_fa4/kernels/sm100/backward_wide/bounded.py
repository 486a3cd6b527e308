"""What own rows see of a block of the stream, or are seen by, where rows have bounds of theirs."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Uint32

from jax_fa4.kernels.sm100.backward.bounded import ALL
from jax_fa4.kernels.sm100.backward_wide.config import HALF, STREAM, TILE
from jax_fa4.kernels.toolkit import key_bounds, visible_words
from jax_fa4.kernels.toolkit.key_bounds import GROUP

WARP_SIZE = 32


@cute.jit
def visible(context, row, work, gradient: cutlass.Constexpr, block):
    """Which of this half of the stream's block this thread's row sees, or is seen by: a word.

    And whether all of the CTA's rows are so with all of it. Asked before the scores are there.
    """
    given, lane, streamed = context.bounds, row.thread % WARP_SIZE, block * STREAM
    words = cute.make_rmem_tensor(1, Uint32)
    words.fill(Uint32(ALL))
    if cutlass.const_expr(gradient.of_keys):
        keys = key_bounds.keys_of(given, work.batch, block)
        is_whole = keys.are_whole(work.row, work.row + TILE - 1)
    else:
        keys = key_bounds.keys_of(given, work.batch, work.row // GROUP, TILE // GROUP)
        is_whole = keys.are_whole(streamed, streamed + STREAM - 1)
    if not is_whole:
        first = streamed + row.half * HALF
        if cutlass.const_expr(gradient.of_keys):
            found = visible_words.of_key(given, work.batch, work.row + row.lane, first, lane, 1)
        else:
            own_row = key_bounds.row_of(given, work.batch, work.row + row.thread)
            found = visible_words.of_row(given, work.batch, own_row, first, lane, 1)
        words[0] = found[0]
    return words, is_whole
