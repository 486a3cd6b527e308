"""Tiles of a device's arrays: taken out, computed as one batch, and put back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops import manual_axes
from jax_fa4.ops.band import Band
from jax_fa4.parallel.schedule import Tile


@dataclass(frozen=True)
class Place:
    """A range of rows along an array's axis; the start may be a traced number."""

    start: int | jax.Array
    length: int

    def take(self, x: jax.Array, axis: int = 1) -> jax.Array:
        if self.length == x.shape[axis]:
            return x
        if isinstance(self.start, int):
            return lax.slice_in_dim(x, self.start, self.start + self.length, axis=axis)
        rows: jax.Array = lax.dynamic_slice_in_dim(x, self.start, self.length, axis)
        return rows

    def put(self, x: jax.Array, rows: jax.Array, axis: int = 1) -> jax.Array:
        if self.length == x.shape[axis]:
            return rows
        updated: jax.Array = lax.dynamic_update_slice_in_dim(x, rows, self.start, axis)
        return updated

    def add(self, x: jax.Array, rows: jax.Array) -> jax.Array:
        return self.put(x, self.take(x) + rows.astype(x.dtype))


@dataclass(frozen=True)
class Group:
    """Tiles of one shape and band, which one kernel computes with the batches side by side."""

    band: Band
    query_places: tuple[Place, ...]
    key_places: tuple[Place, ...]

    def queries(self, x: jax.Array, axis: int = 1) -> jax.Array:
        return _batch(self.query_places, x, axis)

    def keys(self, x: jax.Array) -> jax.Array:
        return _batch(self.key_places, x, 1)

    def split(self, *parts: jax.Array) -> Iterator[tuple[Place, tuple[jax.Array, ...]]]:
        """For each tile the place of its queries and its share of the batch."""
        return _split(self.query_places, parts)

    def split_keys(self, *parts: jax.Array) -> Iterator[tuple[Place, tuple[jax.Array, ...]]]:
        return _split(self.key_places, parts)


def group(tiles: Sequence[tuple[Tile, ...]], ranks: Sequence[int], rank: jax.Array) -> list[Group]:
    """The tiles of some ranks, alike but for where they start, by shape."""
    groups = []
    alike = list(zip(*tiles, strict=True))
    for _, members in itertools.groupby(alike, key=lambda column: column[0].shape):
        columns = list(members)
        places = [
            (
                Place(_start([t.query for t in column], ranks, rank), column[0].rows),
                Place(_start([t.key for t in column], ranks, rank), column[0].columns),
            )
            for column in columns
        ]
        query_places, key_places = zip(*places, strict=True)
        groups.append(Group(columns[0][0].band, query_places, key_places))
    return groups


def zeros_like(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 zeros that vary over the mesh axes that `x` varies over."""
    zeros = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
    return manual_axes.vary(zeros, manual_axes.varying_axes(x))


def _start(starts: list[int], ranks: Sequence[int], rank: jax.Array) -> int | jax.Array:
    """A start that all ranks share, or this rank's by its number."""
    if len(set(starts)) == 1:
        return starts[0]
    table = [0] * (max(ranks) + 1)
    for r, start in zip(ranks, starts, strict=True):
        table[r] = start
    return jnp.asarray(table, jnp.int32)[rank]


def _batch(places: tuple[Place, ...], x: jax.Array, axis: int) -> jax.Array:
    taken = [place.take(x, axis) for place in places]
    return taken[0] if len(taken) == 1 else jnp.concatenate(taken)


def _split(
    places: tuple[Place, ...], parts: tuple[Any, ...]
) -> Iterator[tuple[Place, tuple[jax.Array, ...]]]:
    size = parts[0].shape[0] // len(places)
    for i, place in enumerate(places):
        yield place, tuple(x[i * size : (i + 1) * size] for x in parts)
