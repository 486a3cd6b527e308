"""Loads, by one warp: K, V, and Q, dO and their rows' numbers in rings, on and on over all keys.

CONTRACT: for every step of the walk one stage of `q` (Q and lse_log2) and one of `do` (dO and
delta) is filled: by the queries as many steps ahead of dQ as there are stages, by a consumer
(`consumer_loads`) one step less ahead of its sums. For every block of keys one stage of `k` and
the one of `v` are filled. V's is free when all consumers have written dS of the last step of the
block before. K's is free when they have written dS of that block's first step: before it they wait
for the copy of dV out of this stage (epilogue.py).
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm90.backward import copies, load
from jax_fa4.kernels.sm90.backward_serial import walk
from jax_fa4.kernels.sm90.backward_serial.config import KEY_STAGES
from jax_fa4.kernels.toolkit import mbarriers


def _load_tiles(context, gmem, shared, barrier: cute.Pointer, first_stage, place) -> None:
    """A block of K or V at `place` (unit, key block), one tile a consumer."""
    consumers = context.config.consumers
    there = walk.at(context, *place)
    source, destination = copies.key_tiles(there, gmem, shared, 0)
    tile_bytes = cute.size_in_bytes(context.dtype, destination[None, 0].layout)
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(barrier, consumers * tile_bytes)
    for i in range(consumers):
        tile = source[None, there.position.key_block * consumers + i]
        target, policy = destination[None, first_stage + i], copies.EVICT_FIRST
        cute.copy(gmem[0], tile, target, tma_bar_ptr=barrier, cache_policy=policy)


def load_k(context, number: Int32, unit: Int32, key_block: Int32) -> None:
    """K of a block of keys, the CTA's `number`th."""
    stage = number % KEY_STAGES
    first = stage * context.config.consumers
    barrier = context.barriers["k_full"].at(stage)
    _load_tiles(context, context.gmem.k, context.shared.sK, barrier, first, (unit, key_block))


def load_v(context, unit: Int32, key_block: Int32) -> None:
    """V of a block of keys."""
    barrier = context.barriers["v_full"].at(0)
    _load_tiles(context, context.gmem.v, context.shared.sV, barrier, 0, (unit, key_block))


def make_loader(context):
    """Rings of Q and dO, and a walk ahead of the others'."""
    stages = context.config.stages
    return (
        mbarriers.make_ring(stages),
        mbarriers.make_ring(stages),
        walk.make_ahead(context),
    )


@cute.jit
def start(context, loader) -> None:
    """Load the first keys, and as many steps as there are stages; what is wanted first, first."""
    q_ring, do_ring, ahead = loader
    place = ahead.place
    unit, key_block = place[walk.UNIT], place[walk.KEY_BLOCK]
    here = walk.here(context, ahead)
    load_k(context, Int32(0), unit, key_block)
    load._fill_q(here, q_ring, place[walk.HEAD], place[walk.BLOCK])
    load_v(context, unit, key_block)
    load._fill_do(here, do_ring, place[walk.HEAD], place[walk.BLOCK])
    walk.advance(context, ahead)
    for _ in cutlass.range(1, context.config.stages, unroll=1):
        go_on(context, loader)


@cute.jit
def go_on(context, loader) -> None:
    """Load the next step, if there is one."""
    q_ring, do_ring, ahead = loader
    place = ahead.place
    if place[walk.UNIT] < context.units.count:
        here = walk.here(context, ahead)
        load._fill_q(here, q_ring, place[walk.HEAD], place[walk.BLOCK])
        load._fill_do(here, do_ring, place[walk.HEAD], place[walk.BLOCK])
        walk.advance(context, ahead)
