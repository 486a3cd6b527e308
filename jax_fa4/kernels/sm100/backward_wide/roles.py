"""Which warp does what, and how every role finds its work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, select_

from jax_fa4.kernels.sm100.backward_wide.config import STREAM, TILE, Gradient, WideConfig
from jax_fa4.kernels.toolkit import key_bounds
from jax_fa4.kernels.toolkit.block_range import Band, visited_blocks
from jax_fa4.kernels.toolkit.key_bounds import GROUP
from jax_fa4.kernels.toolkit.query_range import query_range
from jax_fa4.kernels.toolkit.schedulers import LongestFirst

THREADS = 384


class Role(IntEnum):
    """First warp of each role; compute half h is warps 4 h .. 4 h + 3."""

    COMPUTE = 0
    MMA = 8
    LOAD = 9


@dataclass(frozen=True)
class Work:
    """A CTA's own rows and what it visits: `blocks` blocks of the stream, from `first` on, of each
    of its heads; at least one, so that every role runs the same protocol."""

    row: Int32  # the first of its own
    head: Int32  # of these
    batch: Int32
    stream_head: Int32  # the first
    first: Int32
    blocks: Int32
    visits: Int32  # of all heads


def visited_queries(band: Band, key: Int32) -> tuple[Int32, Int32]:
    """First block of queries, and how many, that see keys [key, key + TILE); at least one."""
    seen = query_range(band, key, STREAM, TILE)
    return seen.first, seen.last - seen.first


def visited_keys(band: Band, query: Int32) -> tuple[Int32, Int32]:
    """First block of keys, and how many, that queries [query, query + TILE) see; at least one."""
    first, last = visited_blocks(band, query, TILE, STREAM)
    return first, last - first


def _visited(context, batch: Int32, row: Int32, gradient: Gradient) -> tuple[Int32, Int32]:
    """First block of the stream, and how many, for own rows [row, row + TILE); at least one."""
    bounds, band = context.bounds, context.band
    if bounds is None:
        return (visited_queries if gradient.of_keys else visited_keys)(band, row)
    group, groups = row // GROUP, TILE // GROUP
    if gradient.of_keys:
        rows = key_bounds.queries_of(bounds, batch, group, groups)
        first, end = key_bounds.blocks_between(*rows, band.seqlen_q, STREAM)
    else:
        keys = key_bounds.keys_of(bounds, batch, group, groups)
        first, end = key_bounds.blocks_between(keys.first, keys.last, band.seqlen_k, STREAM)
    return first, end - first


def place_in_grid(
    config: WideConfig, of_keys: LongestFirst, of_queries: LongestFirst
) -> tuple[Int32, Int32]:
    """Which of the configuration's gradients this CTA makes, and its number among those CTAs."""
    index = cute.arch.block_idx()[0]
    which, before, end = Int32(0), Int32(0), Int32(0)
    for gradient in config.gradients[:-1]:
        end = end + (of_keys if gradient.of_keys else of_queries).tiles()
        before = select_(index >= end, end, before)
        which = which + Int32(index >= end)
    return which, index - before


def work_of(context, gradient: Gradient) -> Work:
    """The same answer for every role, which is what keeps them in step."""
    if gradient.of_keys:
        row_block, head, batch = context.of_keys.decode(context.tile)
        # The scheduler hands out the last rows first; the first keys are what most queries see.
        row = (context.of_keys.row_blocks - 1 - row_block) * TILE
        first, blocks = _visited(context, batch, row, gradient)
        return Work(row, head, batch, head * context.ratio, first, blocks, blocks * context.ratio)
    row_block, head, batch = context.of_queries.decode(context.tile)
    row = row_block * TILE
    first, blocks = _visited(context, batch, row, gradient)
    return Work(row, head, batch, head // context.by_ratio, first, blocks, blocks)


def cuts_something(band: Band, gradient: Gradient, row: Int32, streamed: Int32) -> Boolean:
    """Whether one of the own rows [row, row + TILE) does not see, or is not seen by, one of the
    stream's [streamed, streamed + STREAM)."""
    if gradient.of_keys:
        key, keys, query, queries = row, TILE, streamed, STREAM
    else:
        key, keys, query, queries = streamed, STREAM, row, TILE
    right = key + keys - 1 - query > band.upper
    left = key - (query + queries - 1) < band.lower
    return right | left | (key + keys > band.seqlen_k)


@cute.jit
def next_visit(work: Work, head: Int32, block: Int32) -> tuple[Int32, Int32]:
    """Head and block of the stream after these: all blocks of a head, then the next head's."""
    following = block + 1
    wraps = following == work.first + work.blocks
    return head + Int32(wraps), work.first if wraps else following


def line_of(context, batch: Int32, head: Int32) -> Int64:
    """Number of a query head's first row among the rows of the scratch, in tiles of 128."""
    rows = cute.ceil_div(context.band.seqlen_q, TILE) * TILE
    return (Int64(batch) * context.of_queries.heads + head) * rows
