"""The load warp where a CTA has one tile of queries: K is a block ahead of V.

CONTRACT: in the scheduler's order of tiles, it fills the ring in the order in which
`mma_one_tile` empties it: K of a tile's last block; then, going down, K of the next block and V of
this one, where the block after a tile's first is the next tile's last. sQ follows its tile's
first K: whole, or box by box where the tile's rows are of several heads.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm100.forward.config import ROWS
from jax_fa4.kernels.sm100.forward.load import (
    Block,
    copy_tile,
    load_keys,
    load_values,
    partition_tiles,
)
from jax_fa4.kernels.sm100.forward.roles import PackedTile, first_tile, next_tile, packed_tile
from jax_fa4.kernels.toolkit.head_packing import BOX_COLUMNS, BOX_ROWS, box_partition
from jax_fa4.kernels.toolkit.mbarriers import (
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)


@cute.jit
def _load_queries(context, q_uses, work: PackedTile) -> None:
    """All 128 rows of sQ: zeros past the last position, any past the tile's last head."""
    config, barriers, packing = context.config, context.barriers, context.packing
    wait_next(barriers["q_empty"], q_uses, 0, producer=True)
    if packing.tokens == ROWS:
        tma, mQ = context.gmem.q
        gQ = cute.local_tile(
            mQ[None, None, work.head, work.batch], (config.rows, config.head_dim), (None, 0)
        )
        thread_tiles = context.tiled_mma_qk.get_slice(context.rank).partition_A(gQ)
        source, stages = partition_tiles(tma, thread_tiles, context.shared.sQ)
        source = source[None, work.product_row // config.rows]
        copy_tile(context, barriers["q_full"], tma, source, stages[None, 0], 0)
    else:
        if context.is_leader:
            with cute.arch.elect_one():
                size = config.rows * config.head_dim * context.dtype.width // 8
                barriers["q_full"].arrive_with_bytes(0, size)
        tma, mQ = context.boxes.q
        for b in cutlass.range(ROWS // BOX_ROWS, unroll=1):
            head, position = packing.place_of(b * BOX_ROWS)
            gQ = mQ[None, None, work.head + head, work.batch]
            source, stages = box_partition(tma, gQ, context.boxes.sQ)
            row = (work.row + position) // BOX_ROWS
            for panel in cutlass.range_constexpr(config.head_dim // BOX_COLUMNS):
                cute.copy(
                    tma,
                    source[None, row, panel],
                    stages[None, ROWS // BOX_ROWS * panel + b],
                    tma_bar_ptr=barriers["q_full"].at(0),
                )


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    barriers, stages = context.barriers, context.config.kv_stages
    ring, q_uses = make_ring(stages), make_counters(1)
    done = head = batch = block = Int32(0)  # the last three of the block whose V is due
    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        work = packed_tile(context, tile)
        head_kv = work.head // context.ratio
        for i in cutlass.range(work.visits, unroll=1):
            keys = work.last - 1 - i
            load_keys(context, ring, Block(head_kv, work.batch, keys))
            if i == 0:
                _load_queries(context, q_uses, work)
            if done + i > 0:
                load_values(context, ring, Block(head, batch, block))
            head, batch, block = head_kv, work.batch, keys
        done = done + work.visits
        tile = next_tile(context, tile)
    if done > 0:
        load_values(context, ring, Block(head, batch, block))

    # Stay until every stage was read, so that no product arrives at a dead CTA's barrier.
    for _ in cutlass.range_constexpr(stages):
        wait_stage(barriers["kv_empty"], ring, producer=True)
        advance(ring)
    wait_next(barriers["q_empty"], q_uses, 0, producer=True)
