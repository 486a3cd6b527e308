"""The store warp where a CTA has one tile, perhaps of several heads: `store` has the contract."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm100.forward.config import ROWS
from jax_fa4.kernels.sm100.forward.roles import (
    PackedTile,
    first_tile,
    next_tile,
    packed_tile,
)
from jax_fa4.kernels.sm100.forward.store import partition_output
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
def run(context) -> None:
    """Walk this CTA's tiles; see the contract of `store`."""
    config, barriers = context.config, context.barriers
    tma, _ = context.gmem.o
    staged = make_counters(1)
    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        work = packed_tile(context, tile)
        source, target = partition_output(context, work.head, work.batch)
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
