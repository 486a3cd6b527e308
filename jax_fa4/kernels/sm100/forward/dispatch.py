"""Which code each warp runs."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm100.forward import (
    correction,
    correction_one_tile,
    load,
    load_one_tile,
    mma,
    mma_one_tile,
    schedule,
    softmax,
    softmax_one_tile,
    store,
    store_one_tile,
)
from jax_fa4.kernels.sm100.forward.config import WARPS
from jax_fa4.kernels.sm100.forward.roles import Role


@cute.jit
def run(context, warp: Int32) -> None:
    """The role of `warp`, in the modules for one tile of queries or for two."""
    config = context.config
    # ---- softmax: a warpgroup for each O; scores to P
    if warp < WARPS * config.outputs:
        cute.arch.setmaxregister_increase(config.softmax_registers)
        if cutlass.const_expr(config.q_tiles == 1):
            softmax_one_tile.run(context, warp // WARPS)
        else:
            softmax.run(context, warp // WARPS)

    # ---- correction: scales O in tensor memory, and reads it out
    if warp // WARPS == Role.CORRECTION // WARPS:
        cute.arch.setmaxregister_decrease(config.correction_registers)
        if cutlass.const_expr(config.q_tiles == 1):
            correction_one_tile.run(context)
        else:
            correction.run(context)

    # ---- the other four warps
    if warp // WARPS == Role.MMA // WARPS:
        cute.arch.setmaxregister_decrease(config.other_registers)
        if (warp == Role.MMA) & context.is_leader:
            if cutlass.const_expr(config.q_tiles == 1):
                mma_one_tile.run(context)
            else:
                mma.run(context)
        if warp == Role.STORE:
            if cutlass.const_expr(config.q_tiles == 1):
                store_one_tile.run(context)
            else:
                store.run(context)
        if warp == Role.LOAD:
            if cutlass.const_expr(config.q_tiles == 1):
                load_one_tile.run(context)
            else:
                load.run(context)
        if cutlass.const_expr(config.claims_tiles):
            schedule.run(context, warp)
