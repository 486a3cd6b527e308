"""In what order a CTA walks blocks of queries: those of a head upwards, head after head.

Where CTAs take turns, they walk all heads of a block, and blocks as turns.py says.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, select_


def first_step(context) -> tuple[Int32, Int32]:
    """Query head and block of queries to begin with."""
    head = context.position.head_kv * context.ratio
    if cutlass.const_expr(context.config.ordered):
        queries = context.queries
        return head, select_(context.upwards == 1, queries.first, queries.last - 1)
    return head, context.queries.first


def steps(context) -> Int32:
    """How many blocks of queries there are, of all heads."""
    return (context.queries.last - context.queries.first) * context.ratio


@cute.jit
def next_step(context, head: Int32, block: Int32) -> tuple[Int32, Int32]:
    """The head and block after these."""
    queries = context.queries
    if cutlass.const_expr(context.config.ordered):
        first_head = context.position.head_kv * context.ratio
        is_last = head + 1 == first_head + context.ratio
        head = first_head if is_last else head + 1
        step = select_(context.upwards == 1, Int32(1), Int32(-1))
        return head, block + step if is_last else block
    block = block + 1
    wraps = block == queries.last
    return head + 1 if wraps else head, queries.first if wraps else block
