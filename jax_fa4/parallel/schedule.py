"""Which device attends which keys on which hop of the ring: known at trace time, in numbers.

The ring attention of every layout, mask and window is one table: for each hop and each rank the
tiles (a range of its queries x a range of the keys that are with it then x a band). Hops without
tiles are not travelled to. The bands are static, as the kernels want them; what differs from rank
to rank is a row of the table.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from jax_fa4.ops.band import UNBOUNDED, Band
from jax_fa4.parallel.layouts import Layout, Rows, shard_rows


@dataclass(frozen=True)
class Tile:
    """Queries `query .. query + rows - 1` and keys `key .. key + columns - 1` of two shards."""

    query: int
    key: int
    rows: int
    columns: int
    band: Band

    @property
    def shape(self) -> tuple[int, int, Band]:
        """All that a kernel is chosen and launched by."""
        return self.rows, self.columns, self.band

    def scores(self) -> int:
        """Number of (query, key) pairs inside the band."""
        lower, upper = self.band.lower, self.band.upper
        last = self.columns - 1
        spans = (min(last, i + upper) - max(0, i + lower) + 1 for i in range(self.rows))
        return sum(max(0, span) for span in spans)


@dataclass(frozen=True)
class Hop:
    """One stop of the keys: `shift` devices from the stop before, each with its own tiles."""

    shift: int
    tiles: tuple[tuple[Tile, ...], ...]

    def cases(self) -> tuple[tuple[int, ...], ...]:
        """Ranks by the shapes of their tiles: each group runs one program."""
        groups: dict[tuple[tuple[int, int, Band], ...], list[int]] = {}
        for rank, tiles in enumerate(self.tiles):
            groups.setdefault(tuple(t.shape for t in tiles), []).append(rank)
        return tuple(map(tuple, groups.values()))


@dataclass(frozen=True)
class Schedule:
    """All hops: `home`, where the keys are the device's own, then travels either way from it."""

    shards: int
    home: Hop
    travels: tuple[tuple[Hop, ...], ...]

    def hops(self) -> tuple[Hop, ...]:
        return (self.home, *(hop for travel in self.travels for hop in travel))

    def scores(self) -> list[int]:
        """Number of (query, key) pairs that each rank computes."""
        return [
            sum(tile.scores() for hop in self.hops() for tile in hop.tiles[rank])
            for rank in range(self.shards)
        ]


@functools.cache
def make(layout: Layout, shards: int, length: int, band: Band) -> Schedule:
    """The schedule of a ring of `shards` devices with `length` rows each under a global band."""
    rows = [shard_rows(layout, shards, length, rank) for rank in range(shards)]
    tiles = {
        distance: tuple(
            _tiles(rows[rank], rows[(rank - distance) % shards], band) for rank in range(shards)
        )
        for distance in range(shards)
    }
    needed = [distance for distance, t in tiles.items() if distance and any(t)]
    return Schedule(
        shards,
        Hop(0, tiles[0]),
        tuple(_travel(way, tiles) for way in _ways(needed, shards) if way),
    )


def _travel(
    way: tuple[int, ...], tiles: dict[int, tuple[tuple[Tile, ...], ...]]
) -> tuple[Hop, ...]:
    """Hops to these signed distances from home, one after the other."""
    steps = zip((0, *way), way, strict=False)
    return tuple(Hop(to - start, tiles[to % len(tiles)]) for start, to in steps)


def _ways(needed: list[int], shards: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The distances to go to upwards and downwards, leaving out the widest gap of the ring."""
    stops = [0, *needed, shards]
    turn = max((end - start, start) for start, end in itertools.pairwise(stops))[1]
    up = tuple(d for d in needed if d <= turn)
    down = tuple(d - shards for d in reversed(needed) if d > turn)
    return up, down


def _tiles(queries: tuple[Rows, ...], keys: tuple[Rows, ...], band: Band) -> tuple[Tile, ...]:
    """The tiles of one shard's queries and another's keys: one in all, or one a pair of ranges."""
    pairs = [_tile(q, k, band) for q in queries for k in keys]
    seen = tuple(tile for tile in pairs if tile is not None)
    if len(pairs) == 1 or not seen:
        return seen
    for whole in map(functools.partial(_whole, queries, keys), seen):
        if pairs == [_cut(whole, q, k) for q in queries for k in keys]:
            return (whole,)
    return seen


def _whole(queries: tuple[Rows, ...], keys: tuple[Rows, ...], tile: Tile) -> Tile:
    """A tile of the whole shards whose band is that of one of its parts."""
    rows, columns = (part[-1].first + part[-1].length for part in (queries, keys))
    shift = tile.key - tile.query
    band = Band(_add(tile.band.lower, shift), _add(tile.band.upper, shift))
    return _clipped(0, 0, rows, columns, band)


def _cut(whole: Tile, queries: Rows, keys: Rows) -> Tile | None:
    """The part of a tile of whole shards that these ranges of rows have."""
    shift = queries.first - keys.first
    band = Band(_add(whole.band.lower, shift), _add(whole.band.upper, shift))
    tile = _clipped(queries.first, keys.first, queries.length, keys.length, band)
    return tile if _sees(tile) else None


def _tile(queries: Rows, keys: Rows, band: Band) -> Tile | None:
    """lower <= (keys.start + step j) - (queries.start + step i) <= upper, as a band of j - i."""
    distance, step = keys.start - queries.start, queries.step
    lower = band.lower if band.lower == -UNBOUNDED else -((distance - band.lower) // step)
    upper = band.upper if band.upper == UNBOUNDED else (band.upper - distance) // step
    tile = _clipped(queries.first, keys.first, queries.length, keys.length, Band(lower, upper))
    return tile if _sees(tile) else None


def _clipped(query: int, key: int, rows: int, columns: int, band: Band) -> Tile:
    """A tile whose band has no side that hides nothing, so that equal tiles compare equal."""
    lower = band.lower if band.cuts_left(rows) else -UNBOUNDED
    upper = band.upper if band.cuts_right(columns) else UNBOUNDED
    return Tile(query, key, rows, columns, Band(lower, upper))


def _sees(tile: Tile) -> bool:
    lower, upper = tile.band.lower, tile.band.upper
    return lower <= upper and upper > -tile.rows and lower < tile.columns


def _add(bound: int, shift: int) -> int:
    return bound if abs(bound) == UNBOUNDED else bound + shift
