"""The store warp: writes finished tiles of O from shared memory by TMA.

CONTRACT: a stage of sO is read between its o_staged and its o_stored. The TMA cuts rows past the
end, and columns past the head dim.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.forward.config import ROWS
from jax_fa4.kernels.sm100.forward.roles import first_tile, next_tile, work_of
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config, barriers, sO = context.config, context.barriers, context.shared.sO
    tma, mO = context.gmem.o
    staged = make_counters(config.q_tiles)

    tile = first_tile()
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
                        row_tile = work.row // ROWS + t
                        cute.copy(tma, source[None, stage], target[None, row_tile, part])
                        cute.arch.cp_async_bulk_commit_group()
                        cute.arch.cp_async_bulk_wait_group(0, read=True)
                        barriers["o_stored"].arrive(stage)
        tile = next_tile(tile)
