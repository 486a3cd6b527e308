"""Where every row has bounds of its own: the blocks of a tile, masks, and sinks.

A consumer's 64 rows are one group of the tables (toolkit/key_bounds.py). Every role of a CTA makes
its range of blocks from the same groups; within it, a consumer masks what its own rows do not see
whole. Blocks left of all that they see are masked ones for it, too, as are those right of it but
for one, which it may skip: to skip more would be to wait for keys that the producer only loads when
values before them were given back.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, max, min

from jax_fa4.kernels.sm90.forward.masks import WORD_BITS, bits_from_to, columns_before
from jax_fa4.kernels.toolkit import key_bounds, softcap
from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, rows_view, sum_over_row
from jax_fa4.kernels.toolkit.block_range import BlockRange
from jax_fa4.kernels.toolkit.forward_arrays import LN_2, LOG2_E
from jax_fa4.kernels.toolkit.key_bounds import GROUP, KeyBounds

_MOST_SKIPPED = 1  # blocks, see above


@dataclass(frozen=True)
class Bounded:
    """What bounded kernels are called with beside the usual."""

    keys: KeyBounds
    sinks: cute.Pointer  # (heads_q)
    cap_slope: Float32  # of softcap.py


def _visited(context, keys) -> tuple[Int32, Int32]:
    config, length = context.config, context.band.seqlen_k
    return key_bounds.blocks_between(keys.first, keys.last, length, config.tile_n)


@cute.jit
def visited_blocks(context, row_block, batch) -> tuple[Int32, Int32]:
    """First block and one past the last block that this CTA's rows visit."""
    groups = context.config.tile_m // GROUP
    keys = key_bounds.keys_of(context.bounded.keys, batch, row_block * groups, groups)
    return _visited(context, keys)


@cute.jit
def block_range(context, group, batch, first, last) -> BlockRange:
    """The blocks of one group, of which the CTA visits `first` .. `last`."""
    tile_n = context.config.tile_n
    keys = key_bounds.keys_of(context.bounded.keys, batch, group)
    own_first, own_last = _visited(context, keys)
    unmasked_last = max(min((keys.whole_last + 1) // tile_n, last), first)
    left_last = max(min(cute.ceil_div(keys.whole_first, tile_n), last), first)
    own_last = max(own_last, last - _MOST_SKIPPED)
    return BlockRange(own_first, min(left_last, unmasked_last), unmasked_last, own_last, left_last)


@cute.jit
def mask(context, acc, rows, key) -> None:
    """Set to -inf the scores of keys that their row does not see; `key` is the block's first."""
    bounds = context.bounded.keys
    scores = rows_view(acc)
    columns = cute.size(scores, mode=[1])
    origin = key + rows.thread.column
    own = [
        key_bounds.row_of(bounds, rows.batch, rows.row + rows.thread.row + 8 * r)
        for r in range(ROWS_PER_THREAD)
    ]
    for first in cutlass.range_constexpr(0, columns, WORD_BITS):
        seen = [
            bits_from_to(
                columns_before(row.first - origin) - first,
                columns_before(row.last + 1 - origin) - first,
            )
            for row in own
        ]
        for bit in cutlass.range_constexpr(min(WORD_BITS, columns - first)):
            column = first + bit
            key_id = key_bounds.key_id_of(
                bounds, rows.batch, origin + column % 2 + 8 * (column // 2)
            )
            for r in cutlass.range_constexpr(ROWS_PER_THREAD):
                visible = ((seen[r] & Uint32(1 << bit)) != 0) & (own[r].id == key_id)
                scores[r, column] = scores[r, column] if visible else -Float32.inf


@cute.jit
def cap(context, acc) -> None:
    """Scores to what softcap.py makes of them."""
    slope = context.bounded.cap_slope
    for i in cutlass.range_constexpr(cute.size(acc)):
        acc[i] = softcap.capped(acc[i], slope)


@cute.jit
def sink_of(context, head) -> Float32:
    """The head's sink in units of log2."""
    return cute.make_tensor(context.bounded.sinks, cute.make_layout(1 << 30))[head] * LOG2_E


@cute.jit
def finish(context, frag, sink) -> None:
    """As `softmax.finish`, with exp2(sink) in every row's sum.

    The sink may be the largest by far: everything is taken relative to the larger of the two.
    """
    rows = rows_view(frag.acc_O)
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        maximum = frag.row_max[r] * context.scale_log2
        larger = cute.arch.fmax(maximum, sink)
        # A row that has seen nothing, and has no sink, keeps a sum of 0.
        shift = Float32(0.0) if larger == -Float32.inf else -larger
        scale = cute.math.exp2(maximum + shift, fastmath=True)
        total = sum_over_row(frag.row_sum[r])
        unseen = total == 0.0
        total = cute.math.fma(total, scale, cute.math.exp2(sink + shift, fastmath=True))
        inverse = cute.arch.rcp_approx(total) * scale
        lse = (larger + cute.math.log2(total, fastmath=True)) * LN_2
        for c in cutlass.range_constexpr(cute.size(rows, mode=[1])):
            rows[r, c] = Float32(0.0) if unseen else rows[r, c] * inverse
        frag.row_max[r] = -Float32.inf if total == 0.0 else lse
