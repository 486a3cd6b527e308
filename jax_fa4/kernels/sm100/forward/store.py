"""The store warp: writes finished tiles of O from shared memory by TMA.

CONTRACT: a stage of sO is read between its o_staged and its o_stored. The TMA cuts rows past the
end, and columns past the head dim.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.forward.config import ROWS
from jax_fa4.kernels.sm100.forward.roles import (
    PackedTile,
    first_tile,
    next_tile,
    packed_tile,
    part_of,
    work_of,
)
from jax_fa4.kernels.toolkit.head_packing import BOX_COLUMNS, BOX_ROWS, box_partition
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next


@cute.jit
def _store_boxes(context, work: PackedTile, part: Int32) -> None:
    """The rows of a tile that are of heads, eight by eight."""
    config, packing = context.config, context.packing
    tma, mO = context.boxes.o
    panels = config.output_columns // BOX_COLUMNS
    heads = packing.heads_from(work.head)
    for b in cutlass.range(ROWS // BOX_ROWS, unroll=1):
        head, position = packing.place_of(b * BOX_ROWS)
        if head < heads:
            gO = mO[None, None, work.head + head, work.batch]
            target, stages = box_partition(tma, gO, context.boxes.sO)
            row = (work.row + position) // BOX_ROWS
            for panel in cutlass.range_constexpr(panels):
                source = stages[None, ROWS // BOX_ROWS * panel + b]
                cute.copy(tma, source, target[None, row, part * panels + panel])


@cute.jit
def _run_one_tile(context) -> None:
    """`run` where a CTA has one tile, perhaps of several heads."""
    config, barriers, sO = context.config, context.barriers, context.shared.sO
    tma, mO = context.gmem.o
    staged = make_counters(1)
    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        work = packed_tile(context, tile)
        gO = cute.local_tile(
            mO[None, None, work.head, work.batch], (ROWS, config.output_columns), (None, None)
        )
        source, target = cpasync.tma_partition(
            tma, 0, cute.make_layout(1), cute.group_modes(sO, 0, 2), cute.group_modes(gO, 0, 2)
        )
        for part in cutlass.range_constexpr(config.output_parts):
            wait_next(barriers["o_staged"], staged, 0)
            with cute.arch.elect_one():
                if context.packing.tokens == ROWS:
                    cute.copy(tma, source[None, 0], target[None, work.row // ROWS, part])
                else:
                    _store_boxes(context, work, part)
                cute.arch.cp_async_bulk_commit_group()
                cute.arch.cp_async_bulk_wait_group(0, read=True)
                barriers["o_stored"].arrive(0)
        tile = next_tile(context, tile)


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    if cutlass.const_expr(context.config.q_tiles == 1):
        _run_one_tile(context)
    else:
        _run_two_tiles(context)


@cute.jit
def _run_two_tiles(context) -> None:
    config, barriers, sO = context.config, context.barriers, context.shared.sO
    tma, mO = context.gmem.o
    staged = make_counters(config.q_tiles)

    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        work = work_of(context, tile)
        gO = cute.local_tile(
            mO[None, None, work.head, work.batch], (ROWS, config.output_columns), (None, None)
        )
        source, target = cpasync.tma_partition(
            tma, 0, cute.make_layout(1), cute.group_modes(sO, 0, 2), cute.group_modes(gO, 0, 2)
        )
        for t in cutlass.range_constexpr(config.q_tiles):
            if work.blocks[t].first < work.blocks[t].last:
                for part in cutlass.range_constexpr(config.output_parts):
                    stage = config.output_stage(t, part)
                    wait_next(barriers["o_staged"], staged, stage)
                    with cute.arch.elect_one():
                        row_tile = work.row // ROWS + part_of(context, t)
                        cute.copy(tma, source[None, stage], target[None, row_tile, part])
                        cute.arch.cp_async_bulk_commit_group()
                        cute.arch.cp_async_bulk_wait_group(0, read=True)
                        barriers["o_stored"].arrive(stage)
        tile = next_tile(context, tile)
