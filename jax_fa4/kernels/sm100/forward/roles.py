"""Which warp does what, and how every role finds its work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cutlass.cute as cute
from cutlass import Boolean, Int32, max, min, select_

from jax_fa4.kernels.sm100.forward.config import TILE_N, TILE_PLACES
from jax_fa4.kernels.toolkit import key_bounds
from jax_fa4.kernels.toolkit.block_range import BlockRange, block_range, visited_blocks
from jax_fa4.kernels.toolkit.key_bounds import GROUP
from jax_fa4.kernels.toolkit.mbarriers import make_counters

THREADS = 512


class Role(IntEnum):
    """First warp of each role; softmax t is warps 4 t .. 4 t + 3."""

    SOFTMAX = 0
    CORRECTION = 8
    MMA = 12
    STORE = 13
    LOAD = 14
    SCHEDULE = 15  # where a CTA claims its tiles


class NamedBarrier(IntEnum):
    """First of a run of barriers; 0 is sync_threads'."""

    SCALE = 1  # 64 threads, one a softmax warp: it arrives, the correction warp of its rows waits


@dataclass(frozen=True)
class Blocks:
    """Blocks of keys [first, last), walked from the last to the first; may be empty."""

    first: Int32
    last: Int32

    def has(self, block: Int32) -> Boolean:
        return (block >= self.first) & (block < self.last)


@dataclass(frozen=True)
class Work:
    """One tile of the scheduler: where it lies, and what each of its tiles of 128 rows visits."""

    row: Int32  # the first; `part_of` says which are this CTA's
    head: Int32
    batch: Int32
    blocks: tuple[Blocks, ...]  # by t, of both CTAs of a pair; empty where tile t has no rows
    first: Int32  # all of them together
    last: Int32
    gap: tuple[Int32, Int32] | None = None  # with bounds: of blocks of neither, its end and length

    @property
    def steps(self) -> Int32:
        """How many blocks that is after the last one, with which all begin."""
        steps = self.last - 1 - self.first
        return steps if self.gap is None else steps - self.gap[1]

    def block(self, i: Int32) -> Int32:
        """Number i of them, from the last on."""
        block = self.last - 1 - i
        if self.gap is None:
            return block
        end, length = self.gap
        return block - select_(block < end, length, Int32(0))


def _keys_of(context, batch: Int32, row: Int32, rows: Int32) -> key_bounds.Keys:
    """What rows [row, row + rows) see, which are at most 128 in two groups, or in one."""
    groups = (row // GROUP, (row + rows - 1) // GROUP)
    one, other = (key_bounds.keys_of(context.bounds, batch, group) for group in groups)
    return key_bounds.Keys(
        min(one.first, other.first),
        max(one.last, other.last),
        max(one.whole_first, other.whole_first),
        min(one.whole_last, other.whole_last),
    )


def _visited_blocks(context, batch: Int32, row: Int32, rows: Int32) -> tuple[Int32, Int32]:
    """First block and one past the last that rows [row, row + rows) of queries visit."""
    if context.bounds is not None:
        keys = _keys_of(context, batch, row, rows)
        return key_bounds.blocks_between(keys.first, keys.last, context.band.seqlen_k, TILE_N)
    return visited_blocks(context.band, row, rows, TILE_N)


def range_of_blocks(context, tile: Int32, row: Int32, rows: Int32) -> BlockRange:
    """These blocks for a tile of the scheduler and, among them, those that need no mask."""
    if context.bounds is not None:
        _, _, batch = context.scheduler.decode(tile)
        keys = _keys_of(context, batch, row, rows)
        first, last = key_bounds.blocks_between(
            keys.first, keys.last, context.band.seqlen_k, TILE_N
        )
        whole_first = max(min(cute.ceil_div(keys.whole_first, TILE_N), last), first)
        whole_last = max(min((keys.whole_last + 1) // TILE_N, last), whole_first)
        return BlockRange(first, whole_first, whole_last, last, whole_first)
    return block_range(context.band, row, rows, TILE_N)


@cute.jit
def _blocks_if_rows(context, batch: Int32, row: Int32, empty: Int32) -> tuple[Int32, Int32]:
    """What the tile at `row` visits; nothing, at `empty`, if it has no rows.

    Without rows it is no party to any barrier.
    """
    begin, end = _visited_blocks(context, batch, row, context.config.rows)
    has_rows = row < context.band.seqlen_q
    begin = begin if has_rows else empty
    end = end if has_rows else empty
    return begin, end


def first_row(context, tile: Int32) -> Int32:
    """First row of queries of the scheduler's tile number `tile`."""
    return context.scheduler.decode(tile)[0] * context.config.tile_m


def part_of(context, t):
    """Which 128 rows of a tile of the scheduler are tile t of this CTA."""
    return t * context.config.cta_group + context.rank


def _gap(one: Blocks, other: Blocks) -> tuple[Int32, Int32]:
    """Blocks between those of two tiles: one past the last of them, and how many there are."""
    end = max(one.first, other.first)
    return end, max(end - min(one.last, other.last), 0)


def work_of(context, tile: Int32) -> Work:
    """The same answer for every role and both CTAs of a pair, which is what keeps them in step."""
    rows = context.config.rows
    row_block, head, batch = context.scheduler.decode(tile)
    row = row_block * context.config.tile_m
    blocks = []
    first, last = _visited_blocks(context, batch, row, rows)
    blocks.append(Blocks(first, last))
    for t in range(1, context.config.q_tiles):
        begin, end = _blocks_if_rows(context, batch, row + t * rows, first)
        blocks.append(Blocks(begin, end))
        first, last = min(first, begin), max(last, end)
    gap = _gap(*blocks) if context.bounds is not None else None
    return Work(row, head, batch, tuple(blocks), first, last, gap)


@dataclass(frozen=True)
class PackedTile:
    """A tile of the scheduler where a CTA has one, perhaps with rows of several heads."""

    product_row: Int32  # position of its first query, or of the pair's
    row: Int32  # position of this CTA's first query
    head: Int32  # of its first row
    batch: Int32
    first: Int32  # it visits blocks last - 1 down to `first`, at least one, as the other of a pair
    last: Int32

    @property
    def visits(self) -> Int32:
        """How many blocks that is."""
        return self.last - self.first


def packed_tile(context, tile: Int32) -> PackedTile:
    """`work_of` where a CTA has one tile."""
    row_block, group, batch = context.scheduler.decode(tile)
    positions = context.packing.tokens * context.config.cta_group
    product_row = row_block * positions
    row = product_row + context.rank * context.packing.tokens
    first, last = _visited_blocks(context, batch, product_row, positions)
    return PackedTile(product_row, row, context.packing.first_head(group), batch, first, last)


def first_tile(context) -> Int32:
    if context.config.cta_group == 2:
        return cute.arch.cluster_idx()[0]
    return cute.arch.block_idx()[0]


def make_turn(context):
    """How many tiles a role has heard of; None where it counts for itself."""
    return make_counters(1) if context.config.claims_tiles else None


def place_of(turn: Int32) -> tuple[Int32, Int32]:
    """Where the schedule warp tells of its claim number `turn`, and the parity of the phase."""
    return turn & (TILE_PLACES - 1), (turn >> (TILE_PLACES.bit_length() - 1)) & 1


@cute.jit
def _hear_of_tile(context, turn) -> Int32:
    """What the schedule warp tells this warp."""
    barriers = context.barriers
    place, parity = place_of(turn[0])
    barriers["tile_full"].wait(place, parity)
    tile = context.shared.tiles[place]
    barriers["tile_empty"].arrive_as_warp(place)
    turn[0] = turn[0] + 1
    return cute.arch.make_warp_uniform(tile)


def next_tile(context, tile: Int32, turn=None) -> Int32:
    """The tile after `tile`, or one past all; `turn` is the role's `make_turn`."""
    if context.config.claims_tiles:
        return _hear_of_tile(context, turn)
    pair = context.config.cta_group == 2
    return tile + Int32((cute.arch.cluster_dim() if pair else cute.arch.grid_dim())[0])
