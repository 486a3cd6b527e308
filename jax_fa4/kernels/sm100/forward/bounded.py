"""Rows with bounds of their own, and sinks, in the place of the band: what softmax does for them.

`toolkit.key_bounds` says what a row sees, and which blocks a tile visits. In a block that its tile
does not see whole, a row has a word of bits for every 32 keys (`toolkit.visible_words`), which its
warp makes before it waits for the scores.

A sink is one more logit of a row, without a value: with the row's maximum m and sum l in base 2,

    O / (l + 2^(sink log2(e) - m)),    lse likewise
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.forward.config import TILE_N, WARP_SIZE
from jax_fa4.kernels.toolkit import key_bounds, visible_words
from jax_fa4.kernels.toolkit.forward_arrays import LOG2_E
from jax_fa4.kernels.toolkit.mbarriers import make_counters


@dataclass(frozen=True)
class Own:
    """What this thread's row may see; registers."""

    bounds: cute.Tensor  # first and last key, and the row's id
    key: cute.Tensor  # first of the next block
    batch: cute.Tensor


def make_own() -> Own:
    return Own(bounds=make_counters(3), key=make_counters(1), batch=make_counters(1))


@cute.jit
def take_own(context, row, tile: Int32, position: Int32) -> None:
    """Load what the row at `position` of a tile may see; of a row past the end, the last one's."""
    own = row.own
    _, _, batch = context.scheduler.decode(tile)
    found = key_bounds.row_of(context.bounds, batch, position)
    own.bounds[0] = found.first
    own.bounds[1] = found.last
    own.bounds[2] = found.id
    own.batch[0] = batch


@cute.jit
def words_of_block(context, row) -> cute.Tensor:
    """A bit for each key of the row's next block, 32 to a word."""
    own, lane = row.own, row.thread % WARP_SIZE
    seen = key_bounds.Row(own.bounds[0], own.bounds[1], own.bounds[2])
    words = TILE_N // WARP_SIZE
    return visible_words.of_row(context.bounds, own.batch[0], seen, own.key[0], lane, words)


@cute.jit
def with_sink(context, head: Int32, total: Float32, shift: Float32):
    """A row's sum and shift with the sink of `head`: (to divide O by, of the lse, shift of it).

    The sum that divides stays 0 in a row that has seen nothing, so that its output is 0 whatever
    its O holds; its lse is the sink. The lse's sum is about the larger of maximum and sink, so that
    it overflows for none.
    """
    sink = context.sinks[head] * LOG2_E
    divisor, lse_total, lse_shift = total, total, shift
    if sink != -Float32.inf:
        unseen = total == 0.0
        # Shifts are the negative of maxima.
        own = Float32.inf if unseen else shift
        lse_shift = cute.arch.fmin(own, -sink)
        weight = cute.math.exp2(lse_shift - own, fastmath=True)
        lse_total = total * weight + cute.math.exp2(sink + lse_shift, fastmath=True)
        with_both = total + cute.math.exp2(sink + shift, fastmath=True)
        divisor = total if unseen else with_both
    return divisor, lse_total, lse_shift
