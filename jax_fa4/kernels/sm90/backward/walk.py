"""In what order a CTA walks blocks of queries: those of a head upwards, head after head."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32


def first_step(context) -> tuple[Int32, Int32]:
    """Query head and block of queries to begin with."""
    return context.position.head_kv * context.ratio, context.queries.first


def steps(context) -> Int32:
    """How many blocks of queries there are, of all heads."""
    return (context.queries.last - context.queries.first) * context.ratio


@cute.jit
def next_step(context, head: Int32, block: Int32) -> tuple[Int32, Int32]:
    """The head and block after these."""
    queries = context.queries
    block = block + 1
    wraps = block == queries.last
    return head + 1 if wraps else head, queries.first if wraps else block
