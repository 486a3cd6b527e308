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
    first_tile,
    make_turn,
    next_tile,
    part_of,
    work_of,
)
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next


def partition_output(context, head: Int32, batch: Int32):
    """(source by stage of sO, destination by tile of rows and part of columns) for the TMA."""
    tma, mO = context.gmem.o
    tile = (ROWS, context.config.output_columns)
    gO = cute.local_tile(mO[None, None, head, batch], tile, (None, None))
    return cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(context.shared.sO, 0, 2),
        cute.group_modes(gO, 0, 2),
    )


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config, barriers = context.config, context.barriers
    tma, _ = context.gmem.o
    staged = make_counters(config.q_tiles)

    tile, turn = first_tile(context), make_turn(context)
    while tile < context.scheduler.tiles():
        work = work_of(context, tile)
        source, target = partition_output(context, work.head, work.batch)
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
        tile = next_tile(context, tile, turn)
