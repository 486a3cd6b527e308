"""How every role of both CTAs finds its work. Which warp does what is as in `backward.roles`."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm100.backward.config import TILE
from jax_fa4.kernels.sm100.backward.roles import visited_queries
from jax_fa4.kernels.sm100.backward_pair.config import PAIR_KEYS


@dataclass(frozen=True)
class Work:
    """A CTA's block of keys, and what the pair visits: `blocks` blocks of queries, from `first` on,
    of each of the group's heads; at least one, so that every role runs the same protocol."""

    key: Int32  # the CTA's first; there may be none behind it
    pair_key: Int32  # the pair's first
    head_kv: Int32
    batch: Int32
    first: Int32
    blocks: Int32
    visits: Int32  # of all heads


def work_of(context) -> Work:
    """The same answer, but for `key`, for every role of both, which is what keeps them in step."""
    row_block, head_kv, batch = context.scheduler.decode(cute.arch.cluster_idx()[0])
    # The scheduler hands out the last rows first; the first keys are what most queries see.
    pair_key = (context.scheduler.row_blocks - 1 - row_block) * PAIR_KEYS
    first, blocks = visited_queries(context.band, pair_key, PAIR_KEYS)
    key = pair_key + context.rank * TILE
    return Work(key, pair_key, head_kv, batch, first, blocks, blocks * context.ratio)
