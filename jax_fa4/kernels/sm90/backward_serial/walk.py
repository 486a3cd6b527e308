"""In what order a CTA walks: KV heads, their blocks of keys, and the queries that see each.

A unit of work is a KV head of a batch element; CTA c of g does units c, c + g, ... Within one,
blocks of keys come upwards; the first walks all its queries upwards, as in backward/walk.py, the
next downwards, and so on, so that it begins with what is still in L2. Both ends of the range of
queries that see a block of keys move up with it (query_range.py), so one of queries is visited

    first    by the block of keys whose predecessor's range ends before it,
    last     by the one whose successor's range begins behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32

from jax_fa4.kernels.sm90.backward.context import Context, Position
from jax_fa4.kernels.toolkit.query_range import query_range

_FAR = 1 << 30  # more than there are blocks of queries


@dataclass(frozen=True)
class Units:
    """The units of a CTA: first, first + step, ... below `count`, each of `key_blocks`."""

    first: Int32
    step: Int32
    count: Int32
    key_blocks: Int32
    heads_kv: Int32


@dataclass(frozen=True, kw_only=True)
class SerialContext(Context):
    """As of the other kernels, with what the CTA is to do; position and queries are of a moment."""

    units: Units
    head_dim: Int32
    dq: cute.Pointer  # (batch, seqlen_q, heads_q, head_dim)


def on_the_way(context: Context) -> SerialContext:
    """What a CTA knows besides; dq comes in the place of semaphores."""
    keys = context.gmem.k[1]
    heads_kv = cute.size(keys, mode=[2])
    units = Units(
        first=cute.arch.block_idx()[0],
        step=cute.arch.grid_dim()[0],
        count=heads_kv * cute.size(keys, mode=[3]),
        key_blocks=cute.ceil_div(context.band.seqlen_k, context.config.tile_n),
        heads_kv=heads_kv,
    )
    known = {field.name: getattr(context, field.name) for field in fields(context)}
    return SerialContext(
        **known,
        units=units,
        head_dim=cute.size(keys, mode=[1]),
        dq=cute.recast_ptr(context.gmem.semaphores, dtype=context.dtype),
    )


def _position(key_block: Int32, head_kv: Int32, batch: Int32) -> Position:
    return Position(key_block=key_block, rank=Int32(0), head_kv=head_kv, batch=batch)


def _range_of(context, key_block: Int32):
    tile_m, tile_n = context.config.tile_m, context.config.tile_n
    return query_range(context.band, key_block * tile_n, tile_m, tile_n)


def at(context, unit: Int32, key_block: Int32):
    """The context at a block of keys."""
    batch = unit // context.units.heads_kv
    position = _position(key_block, unit - batch * context.units.heads_kv, batch)
    return replace(context, position=position, queries=_range_of(context, key_block))


def goes_on(context, unit: Int32, key_block: Int32) -> Boolean:
    """Whether a block of keys follows this one."""
    units = context.units
    return (key_block + 1 < units.key_blocks) | (unit + units.step < units.count)


def following(context, unit: Int32, key_block: Int32) -> tuple[Int32, Int32]:
    """The block of keys after this one, with its unit."""
    units = context.units
    wraps = key_block + 1 == units.key_blocks
    return cutlass.select_(wraps, unit + units.step, unit), cutlass.select_(
        wraps, Int32(0), key_block + 1
    )


@cute.jit
def visited_before(context, key_block: Int32) -> Int32:
    """Blocks of queries below this one have been visited by an earlier block of keys."""
    end = Int32(0)
    if key_block > 0:
        end = _range_of(context, key_block - 1).last
    return end


@cute.jit
def visited_again(context, key_block: Int32) -> Int32:
    """Blocks of queries from this one on will be visited by a later block of keys."""
    begin = Int32(_FAR)
    if key_block + 1 < context.units.key_blocks:
        begin = _range_of(context, key_block + 1).first
    return begin


def _goes_up(context) -> Boolean:
    return context.position.key_block % 2 == 0


def first_step(context) -> tuple[Int32, Int32]:
    """Query head and block of queries to begin with."""
    queries, up = context.queries, _goes_up(context)
    head = context.position.head_kv * context.ratio
    return (
        cutlass.select_(up, head, head + context.ratio - 1),
        cutlass.select_(up, queries.first, queries.last - 1),
    )


def steps(context) -> Int32:
    """How many blocks of queries there are, of all heads."""
    return (context.queries.last - context.queries.first) * context.ratio


def next_step(context, head: Int32, block: Int32) -> tuple[Int32, Int32]:
    """The head and block after these."""
    queries, up = context.queries, _goes_up(context)
    by = cutlass.select_(up, Int32(1), Int32(-1))
    wraps = block == cutlass.select_(up, queries.last - 1, queries.first)
    begin = cutlass.select_(up, queries.first, queries.last - 1)
    return cutlass.select_(wraps, head + by, head), cutlass.select_(wraps, begin, block + by)


@dataclass(frozen=True)
class Ahead:
    """A walk of its own over all steps, for loads; registers, by name below."""

    place: cute.Tensor


UNIT, KEY_BLOCK, HEAD_KV, BATCH, HEAD, BLOCK, FIRST, LAST, LEFT = range(9)


@dataclass(frozen=True)
class Span:
    """The blocks of queries that see a block of keys."""

    first: Int32
    last: Int32


def make_ahead(context) -> Ahead:
    """At the CTA's first step."""
    place = cute.make_rmem_tensor(9, Int32)
    _enter(context, place, context.units.first, Int32(0))
    return Ahead(place)


def here(context, ahead: Ahead):
    """The context at the step that is next; no division, since every step asks."""
    place = ahead.place
    position = _position(place[KEY_BLOCK], place[HEAD_KV], place[BATCH])
    return replace(context, position=position, queries=Span(place[FIRST], place[LAST]))


def _enter(context, place, unit, key_block) -> None:
    """To the first step of a block of keys."""
    there = at(context, unit, key_block)
    place[UNIT], place[KEY_BLOCK] = unit, key_block
    place[HEAD_KV], place[BATCH] = there.position.head_kv, there.position.batch
    place[FIRST], place[LAST] = there.queries.first, there.queries.last
    place[HEAD], place[BLOCK] = first_step(there)
    place[LEFT] = steps(there)


@cute.jit
def advance(context, ahead):
    """To the next step, whatever block of keys it is of."""
    place = ahead.place
    left = place[LEFT] - 1
    place[LEFT] = left
    if left > 0:
        head, block = next_step(here(context, ahead), place[HEAD], place[BLOCK])
        place[HEAD] = head
        place[BLOCK] = block
    else:
        unit, key_block = following(context, place[UNIT], place[KEY_BLOCK])
        _enter(context, place, unit, key_block)
