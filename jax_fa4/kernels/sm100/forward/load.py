"""The load warp: fetches Q, K and V tiles by TMA.

CONTRACT: in the scheduler's order of tiles, and from the last block that any of a CTA's tiles
visits to the first, it fills the ring in the order in which `mma` empties it: K of a block, then V
of the block before, which may be of the tile before. sQ[t], for each t that has rows, follows its
tile's first K. Of a pair of CTAs, each copies its half of every block and its own rows of Q. Where
tiles are claimed (`schedule`), it says when.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, min
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.forward.config import TILE_N
from jax_fa4.kernels.sm100.forward.roles import first_tile, make_turn, next_tile, work_of
from jax_fa4.kernels.toolkit.mbarriers import (
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)

# So many blocks of a tile are left to load when the next tile is claimed: the fewer, the better are
# tiles shared out, but the answer must be there before the last of them is multiplied.
_LAST_BLOCKS = 2


def partition_tiles(tma, thread_tiles, shared):
    """(source by tile, destination by stage) of a TMA copy of whole tiles."""
    destination, source = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 3),
        cute.group_modes(thread_tiles, 0, 3),
    )
    return source, destination


@cute.jit
def copy_tile(context, full, tma, source, destination, stage):
    """Start a copy that completes on barrier `stage` of `full`, which is free to use.

    Of a pair, the leader announces what both copy.
    """
    size = cute.size_in_bytes(context.dtype, destination.layout)
    if context.is_leader:
        with cute.arch.elect_one():
            full.arrive_with_bytes(stage, size * context.config.cta_group)
    cute.copy(tma, source, destination, tma_bar_ptr=full.at(stage))


def _fill_ring(context, ring, tma, sources, destination):
    """Load `sources` into the next stages of the ring."""
    barriers = context.barriers
    for source in sources:
        wait_stage(barriers["kv_empty"], ring, producer=True)
        copy_tile(
            context, barriers["kv_full"], tma, source, destination[None, ring.stage], ring.stage
        )
        advance(ring)


@dataclass(frozen=True)
class Block:
    """A block of keys of one KV head."""

    head: Int32
    batch: Int32
    block: Int32


def load_keys(context, ring, keys: Block) -> None:
    """A block of K into the ring, a part of its columns after the other."""
    config, (tma, mK) = context.config, context.gmem.k
    tile = (TILE_N, config.head_dim // config.k_parts)
    gK = cute.local_tile(mK[None, None, keys.head, keys.batch], tile, (None, None))
    thread_tiles = context.tiled_mma_qk.get_slice(context.rank).partition_B(gK)
    source, stages = partition_tiles(tma, thread_tiles, context.shared.sK)
    parts = [source[None, keys.block, part] for part in range(config.k_parts)]
    _fill_ring(context, ring, tma, parts, stages)


def load_values(context, ring, values: Block) -> None:
    """A block of V into the ring, a part of its keys after the other."""
    config, (tma, mV) = context.config, context.gmem.v
    tile = (config.head_dim_v, TILE_N // config.v_parts)
    gV = cute.local_tile(mV[None, None, values.head, values.batch], tile, (0, None))
    thread_tiles = context.tiled_mma_pv.get_slice(context.rank).partition_B(gV)
    source, stages = partition_tiles(tma, thread_tiles, context.shared.sV)
    first = values.block * config.v_parts
    parts = [source[None, first + part] for part in range(config.v_parts)]
    _fill_ring(context, ring, tma, parts, stages)


@cute.jit
def _load_queries(context, q_uses, work) -> None:
    """sQ[t] for each t that has rows."""
    (tma, mQ), rows = context.gmem.q, context.config.rows
    gQ = cute.local_tile(
        mQ[None, None, work.head, work.batch], (rows, context.config.head_dim), (None, 0)
    )
    thread_tiles = context.tiled_mma_qk.get_slice(context.rank).partition_A(gQ)
    source, stages = partition_tiles(tma, thread_tiles, context.shared.sQ)
    for t in cutlass.range_constexpr(context.config.q_tiles):
        if work.blocks[t].first < work.blocks[t].last:
            wait_next(context.barriers["q_empty"], q_uses, t, producer=True)
            row_tile = source[None, work.row // rows + t]
            copy_tile(context, context.barriers["q_full"], tma, row_tile, stages[None, t], t)


@cute.jit
def _ask_for_tile(context, left: Int32, blocks: Int32) -> None:
    """Have a tile claimed, once in a tile: `left` of its `blocks` come after the next."""
    if left == min(_LAST_BLOCKS, blocks) - 1:
        context.barriers["claim_due"].arrive_as_warp(0)


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config, barriers = context.config, context.barriers
    ring, q_uses = make_ring(config.kv_stages), make_counters(config.q_tiles)
    due = head = batch = block = Int32(0)  # whether a V is due, and of which block
    tile, turn = first_tile(context), make_turn(context)
    while tile < context.scheduler.tiles():
        work = work_of(context, tile)
        head_kv = work.head // context.ratio
        visits = work.steps + 1 if config.bounded else work.last - work.first
        for i in cutlass.range(visits, unroll=1):
            keys = work.block(i)
            if cutlass.const_expr(config.claims_tiles):
                _ask_for_tile(context, keys - work.first, work.last - work.first)
            load_keys(context, ring, Block(head_kv, work.batch, keys))
            if i == 0:
                _load_queries(context, q_uses, work)
            if due > 0:
                load_values(context, ring, Block(head, batch, block))
            due, head, batch, block = Int32(1), head_kv, work.batch, keys
        tile = next_tile(context, tile, turn)
    if due > 0:
        load_values(context, ring, Block(head, batch, block))

    # Stay until every stage was read, so that no product arrives at a dead CTA's barrier.
    for _ in cutlass.range_constexpr(config.kv_stages):
        wait_stage(barriers["kv_empty"], ring, producer=True)
        advance(ring)
    for t in cutlass.range_constexpr(config.q_tiles):
        wait_next(barriers["q_empty"], q_uses, t, producer=True)
