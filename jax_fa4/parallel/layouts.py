"""Where the rows of a sequence lie when it is split over the devices of a ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.ops import checks
from jax_fa4.parallel import errors

Layout = Literal["zigzag", "contiguous", "striped"]
LAYOUTS = ("zigzag", "contiguous", "striped")


@dataclass(frozen=True)
class Rows:
    """Rows of a shard that are evenly spaced in the sequence.

    Local rows first .. first + length - 1 are the sequence's start, start + step, ...
    """

    first: int
    length: int
    start: int
    step: int = 1


def shard_rows(layout: Layout, shards: int, length: int, rank: int) -> tuple[Rows, ...]:
    """What shard `rank` of a sequence of shards * length rows holds, in the order it lies there."""
    if layout == "contiguous":
        return (Rows(0, length, rank * length),)
    if layout == "striped":
        return (Rows(0, length, rank, shards),)
    half = length // 2
    mirrored = 2 * shards - 1 - rank
    return Rows(0, half, rank * half), Rows(half, half, mirrored * half)


def check(layout: Any, length: int, shards: int = 1) -> None:
    """ValueError unless a sequence of shards * length rows can lie in `layout`."""
    checks.choice("layout", layout, LAYOUTS)
    if layout == "zigzag" and length % 2:
        raise errors.odd_zigzag_shard(length, shards)


def layout_positions(layout: Layout, shards: int, length: int) -> np.ndarray:
    """Position in the sequence of each row of an array in `layout`: int32 (length,).

    Args:
      layout: "zigzag": the sequence is cut into 2 * shards chunks, and shard r holds chunks r and
        2 * shards - 1 - r, so that under a causal mask all shards have the same work;
        "striped": shard r holds rows r, r + shards, r + 2 * shards, ...; "contiguous": shard r
        holds the r-th part, which is the sequence as it is.
      shards: number of parts, the size of the mesh axis.
      length: of the whole sequence; a multiple of shards, for "zigzag" of 2 * shards.

    Rotary embeddings of an array in `layout` are those of these positions.

    Raises:
      ValueError: an unknown layout, or a length that does not divide.

    Method: zigzag as in Brandon et al. (arXiv:2311.09431) and Llama 3 (arXiv:2407.21783), which
    balance the ring of Liu et al. (arXiv:2310.01889); striped is Brandon et al.
    """
    if shards < 1 or length % shards:
        raise errors.length_does_not_split(length, shards, layout)
    local = length // shards
    check(layout, local, shards)
    rows = (r for rank in range(shards) for r in shard_rows(layout, shards, local, rank))
    parts = [r.start + r.step * np.arange(r.length, dtype=np.int32) for r in rows]
    return np.concatenate(parts)


def to_layout(x: Any, layout: Layout, shards: int, axis: int = 1) -> jax.Array:
    """The array `x`, in the sequence's order along `axis`, put into `layout`.

    Split evenly over a mesh axis of size `shards` it is what `ring_attention` takes. Everything
    that goes with the tokens must go along: labels, positions, segment ids. Cheapest on token
    ids, once, before they go to the devices. See `layout_positions` for layouts and errors.
    """
    x = jnp.asarray(x)
    return jnp.take(x, layout_positions(layout, shards, x.shape[axis]), axis=axis)


def from_layout(x: Any, layout: Layout, shards: int, axis: int = 1) -> jax.Array:
    """The inverse of `to_layout`: `x` in the sequence's own order along `axis`."""
    x = jnp.asarray(x)
    positions = layout_positions(layout, shards, x.shape[axis])
    return jnp.take(x, np.argsort(positions), axis=axis)
