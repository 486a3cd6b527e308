"""Where every row has bounds of its own: the queries of a block of keys, masks, and the soft cap.

A step's 64 queries are one group of the tables (toolkit/key_bounds.py), which says whether a
consumer's 64 keys are seen whole. Scores are transposed here: rows are keys, columns queries.

With a soft cap, dS has a factor 1 - tanh^2 beside P. So the tanh becomes P, which goes straight to
dV's operand, and P (1 - tanh^2) of 16 bits: both together want no register more than the tanh.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Uint32

from jax_fa4.kernels.toolkit import key_bounds, softcap
from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, convert, rows_view
from jax_fa4.kernels.toolkit.key_bounds import GROUP, KeyBounds

# A hidden key's tanh: its exponential is 0, and its factor finite, so that their product is 0.
_HIDDEN = -float(1 << 40)
_CHUNK = 4  # columns that are converted at once


@dataclass(frozen=True)
class SeenBlocks:
    """The blocks of queries that see some key of this CTA's, or of its pair's."""

    first: Int32
    last: Int32  # one past it


@dataclass(frozen=True)
class Bounded:
    """What bounded kernels are called with beside the usual."""

    keys: KeyBounds
    cap_slope: Float32 | None  # of softcap.py, where there is a soft cap


def seen_blocks(keys: KeyBounds, batch: Int32, key: Int32, count: int) -> SeenBlocks:
    """Of `count` keys from `key` on. At least one block: keys that nothing sees hide it all."""
    first, last = key_bounds.queries_of(keys, batch, key // GROUP, count // GROUP)
    return SeenBlocks(*key_bounds.blocks_between(first, last, keys.seqlen_q, GROUP))


def has_cap(context) -> bool:
    """Whether scores have a soft cap; only bounded kernels do."""
    return context.bounded is not None and context.bounded.cap_slope is not None


def sees_whole(context, block: Int32, key: Int32) -> Boolean | None:
    """Whether all queries of a block see each of 64 keys; None in other kernels."""
    if context.bounded is None:
        return None
    keys = key_bounds.keys_of(context.bounded.keys, context.position.batch, block)
    return keys.are_whole(key, key + (GROUP - 1))


@cute.jit
def _seen(context, block, key, thread) -> Uint32:
    """A bit for each of this thread's scores, in the accumulator's order: whether it is seen.

    A loop that stays one: unrolled, its loads want more registers than there are.
    """
    bounds, batch = context.bounded.keys, context.position.batch
    keys = [key + thread.row + 8 * r for r in range(ROWS_PER_THREAD)]
    ids = [key_bounds.key_id_of(bounds, batch, j) for j in keys]
    seen = Uint32(0)
    for group in cutlass.range(GROUP // 8, unroll=1):
        for pair in cutlass.range_constexpr(2):
            i = block * GROUP + 8 * group + thread.column + pair
            row = key_bounds.row_of(bounds, batch, i)
            for r in cutlass.range_constexpr(ROWS_PER_THREAD):
                visible = (row.first <= keys[r]) & (keys[r] <= row.last) & (row.id == ids[r])
                bit = Uint32(1 << (2 * r + pair)) if visible else Uint32(0)
                seen = seen | (bit << (4 * group))
    return seen


@cute.jit
def hide(context, acc, block, key, thread) -> None:
    """Set what keys that a query does not see have in `acc`, P or the tanh of the scores."""
    hidden = Float32(_HIDDEN if has_cap(context) else 0.0)
    seen = _seen(context, block, key, thread)
    for i in cutlass.range_constexpr(cute.size(acc)):
        visible = (seen & Uint32(1 << i)) != 0
        acc[i] = acc[i] if visible else hidden


@cute.jit
def cap(context, acc) -> None:
    """Scores to their tanh."""
    slope = context.bounded.cap_slope
    for i in cutlass.range_constexpr(cute.size(acc)):
        acc[i] = softcap.capped(acc[i], slope)


def capped_probabilities(context, acc, operand, factors, log_sum) -> None:
    """The tanh in `acc` becomes P in `operand` and P (1 - tanh^2) in `factors`, both of 16 bits.

    `log_sum(c)` is the log-sum-exp of column c.
    """
    scores = rows_view(acc)
    size = _CHUNK * ROWS_PER_THREAD
    for first in range(0, cute.size(scores, mode=[1]), _CHUNK):
        chunks = [cute.make_rmem_tensor(cute.make_layout(size), Float32) for _ in range(2)]
        for c in range(first, first + _CHUNK):
            log_sum_c = log_sum(c)
            for r in range(ROWS_PER_THREAD):
                tanh = scores[r, c]
                p = cute.math.exp2(tanh * context.scale_log2 - log_sum_c, fastmath=True)
                # In the accumulator's order: column pair, row, column group.
                at = c % 2 + 2 * r + 4 * ((c - first) // 2)
                chunks[0][at] = p
                chunks[1][at] = p * (1.0 - tanh * tanh)
        for chunk, target in zip(chunks, (operand, factors), strict=True):
            part = cute.make_tensor(target.iterator + first * ROWS_PER_THREAD, chunk.layout)
            convert(chunk, part)
