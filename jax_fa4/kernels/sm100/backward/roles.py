"""Which warp does what, and how every role finds its work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, max, min

from jax_fa4.kernels.sm100.backward.config import TILE
from jax_fa4.kernels.toolkit import key_bounds
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.key_bounds import GROUP

THREADS = 512


class Role(IntEnum):
    """First warp of each role; compute half h is warps 4 h .. 4 h + 3."""

    COMPUTE = 0
    REDUCE = 8
    MMA = 12
    LOAD = 13


class NamedBarrier(IntEnum):
    """0 is sync_threads'."""

    GRADIENT = 1  # all compute threads: a tile of dK or of dV is staged


@dataclass(frozen=True)
class Work:
    """A CTA's block of keys and what it visits: `blocks` blocks of queries, from `first` on, of
    each of the group's heads; at least one, so that every role runs the same protocol."""

    key: Int32  # the first
    head_kv: Int32
    batch: Int32
    first: Int32
    blocks: Int32
    visits: Int32  # of all heads


def visited_queries(band: Band, key: Int32, keys: int = TILE) -> tuple[Int32, Int32]:
    """First block of queries, and how many, that see keys [key, key + keys); at least one.

    Query i sees key j iff band_lower <= j - i <= band_upper.
    """
    last_key = min(key + keys, band.seqlen_k) - 1
    begin = max(key - band.upper, 0)
    end = max(min(last_key - band.lower, band.seqlen_q - 1) + 1, 0)
    blocks = cute.ceil_div(band.seqlen_q, TILE)
    first = min(begin // TILE, blocks - 1)
    return first, max(cute.ceil_div(end, TILE) - first, 1)


def work_of(context) -> Work:
    """The same answer for every role, which is what keeps them in step."""
    row_block, head_kv, batch = context.scheduler.decode(cute.arch.block_idx()[0])
    # The scheduler hands out the last rows first; the first keys are what most queries see.
    key = (context.scheduler.row_blocks - 1 - row_block) * TILE
    if context.bounds is None:
        first, blocks = visited_queries(context.band, key)
    else:
        rows = key_bounds.queries_of(context.bounds, batch, key // GROUP, TILE // GROUP)
        first, end = key_bounds.blocks_between(*rows, context.band.seqlen_q, TILE)
        blocks = end - first
    return Work(key, head_kv, batch, first, blocks, blocks * context.ratio)


def turn_of(band: Band, key: Int32, block: Int32, keys: int = TILE) -> Int32:
    """How many CTAs of smaller keys visit block of queries `block`, which this one visits.

    Each has `keys` of them. They follow each other, since neither end of what a CTA visits
    (`visited_queries`) moves back from one CTA to the next: so what counts is the first of them. It
    is the first whose keys reach as far as those that the block's first query sees, or that visits
    no block before this.
    """
    query = block * TILE
    reaching = max(query + band.lower, 0) // keys
    # Past the last key nothing reaches: then a number that is never the smaller one.
    past = max(query + band.lower - (band.seqlen_k - 1), 0)
    starting = max(query + band.upper + keys - 1, 0) // keys
    # The first block is everybody's who has none before it; lengths are below 2^30.
    first = min(reaching + past, starting, min(block, 1) * (2**30 // keys))
    return key // keys - first


def cuts_something(band: Band, key: Int32, query: Int32) -> Boolean:
    """Whether a query of [query, query + TILE) does not see one of the keys [key, key + TILE)."""
    right = key + TILE - 1 - query > band.upper
    left = key - (query + TILE - 1) < band.lower
    return right | left | (key + TILE > band.seqlen_k)


@cute.jit
def next_visit(work: Work, head: Int32, block: Int32) -> tuple[Int32, Int32]:
    """Head and block of queries after these: all blocks of a head, then the next head's."""
    following = block + 1
    wraps = following == work.first + work.blocks
    return head + Int32(wraps), work.first if wraps else following


def place_of(context, work: Work, head: Int32, block: Int32) -> Int64:
    """Number of a block of queries among those of all heads and batches."""
    blocks = cute.ceil_div(context.band.seqlen_q, TILE)
    return (Int64(work.batch) * context.heads_q + head) * blocks + block
