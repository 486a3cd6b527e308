"""Loads, by one warp: K and V once, and Q, dO and their rows' numbers in rings.

CONTRACT: for every step of the walk one stage of `q` (Q and lse_log2) and one of `do` (dO and
delta) is filled: as many steps ahead of dQ as there are stages, by a warp that makes it, or one
step less ahead of the first consumer, by a warp of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from jax_fa4.kernels.sm90.backward import copies, walk
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.bulk_copies import load_floats

_FLOAT_BYTES = 4


def _fill(context, ring, name: str, tma, source, destination, numbers) -> None:
    """Load a tile, and `numbers`, one a row from global to shared, into the ring's next stage."""
    full, empty = context.barriers[name + "_full"], context.barriers[name + "_empty"]
    rows, shared_rows = numbers
    tile_m = context.config.tile_m
    stage = ring.stage
    mbarriers.wait_stage(empty, ring, producer=True)
    tile_bytes = cute.size_in_bytes(context.dtype, destination[None, 0].layout)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, tile_bytes + tile_m * _FLOAT_BYTES)
    policy = copies.EVICT_FIRST if context.config.streams_queries else None
    target, at = destination[None, stage], full.at(stage)
    cute.copy(tma, source, target, tma_bar_ptr=at, cache_policy=policy)
    load_floats(rows, shared_rows.iterator + stage * tile_m, tile_m, full.at(stage))
    mbarriers.advance(ring)


def _head_tiles(context, head):
    """(source by block of queries, destination by stage) of Q and of dO, and the first row."""
    config, batch = context.config, context.position.batch
    sources = []
    for (tma, tensor), shared in (
        (context.gmem.q, context.shared.sQ),
        (context.gmem.do, context.shared.sdO),
    ):
        tile = (config.tile_m, cute.size(shared, mode=[1]))
        tiles = cute.local_tile(tensor[None, None, head, batch], tile, (None, 0))
        sources.append(copies.partition(tma, tiles, shared))
    return *sources, (Int64(batch) * context.heads_q + head) * context.rows_padded


@cute.jit
def _fill_q(context, ring, head, block):
    (source, stages), _, rows = _head_tiles(context, head)
    row = cute.assume(rows + block * context.config.tile_m, divby=context.config.tile_m)
    numbers = (context.gmem.lse_log2 + row, context.shared.sLSE)
    _fill(context, ring, "q", context.gmem.q[0], source[None, block], stages, numbers)


@cute.jit
def _fill_do(context, ring, head, block):
    _, (source, stages), rows = _head_tiles(context, head)
    row = cute.assume(rows + block * context.config.tile_m, divby=context.config.tile_m)
    numbers = (context.gmem.delta + row, context.shared.sDelta)
    _fill(context, ring, "do", context.gmem.do[0], source[None, block], stages, numbers)


@dataclass(frozen=True)
class Loader:
    """Where the loads are: rings, and the step of the walk that is next (head, block)."""

    q_ring: mbarriers.Ring
    do_ring: mbarriers.Ring
    step: cute.Tensor


def make_loader(context) -> Loader:
    """At the walk's first step."""
    stages = context.config.stages
    step = cute.make_rmem_tensor(2, Int32)
    step[0], step[1] = walk.first_step(context)
    return Loader(mbarriers.make_ring(stages), mbarriers.make_ring(stages), step)


@cute.jit
def _advance(context, loader):
    step = loader.step
    head, block = walk.next_step(context, step[0], step[1])
    step[0] = head
    step[1] = block


@cute.jit
def start(context, loader) -> None:
    """Load K and V, and as many steps as there are stages; what is wanted first comes first."""
    gmem, shared, position = context.gmem, context.shared, context.position
    step = loader.step
    copies.load_keys(context, gmem.k, shared.sK, 0, position.key_block, 0)
    _fill_q(context, loader.q_ring, step[0], step[1])
    copies.load_keys(context, gmem.v, shared.sV, 1, position.key_block, 0)
    _fill_do(context, loader.do_ring, step[0], step[1])
    _advance(context, loader)
    for i in cutlass.range(1, context.config.stages, unroll=1):
        go_on(context, loader, i)


@cute.jit
def go_on(context, loader, number) -> None:
    """Load step `number` of the walk, which is the next, if there is one."""
    step = loader.step
    if number < walk.steps(context):
        _fill_q(context, loader.q_ring, step[0], step[1])
        _fill_do(context, loader.do_ring, step[0], step[1])
        _advance(context, loader)


@cute.jit
def run(context) -> None:
    """Load all, as a warp that has nothing else to do."""
    loader = make_loader(context)
    start(context, loader)
    for i in cutlass.range(context.config.stages, walk.steps(context), unroll=1):
        go_on(context, loader, i)
