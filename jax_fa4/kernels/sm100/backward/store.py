"""The end of a CTA: dV and dK from tensor memory to global memory, in 16 bits.

Compute half h stages half h of the columns, where no product reads any more: dV in the first
stage of dO, dK in that of Q. One thread stores a whole tile by TMA, which cuts rows past the end,
and columns past the head dim.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.backward.config import HALVES, TILE
from jax_fa4.kernels.sm100.backward.roles import NamedBarrier
from jax_fa4.kernels.toolkit import swizzled_rows, tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert

_CHUNK = 16  # columns in registers at a time


@cute.jit
def _stage(context, base, tile, scale, half: Int32, width: cutlass.Constexpr, thread, lane):
    """Half of the columns of the accumulator at `base`, scaled, to shared memory."""
    panel = swizzled_rows.panel_of(width)
    columns = width // HALVES
    for h in cutlass.range_constexpr(HALVES):
        if half == h:
            for column in cutlass.range_constexpr(h * columns, (h + 1) * columns, _CHUNK):
                values = cute.make_rmem_tensor(_CHUNK, Float32)
                tensor_memory.load(base + column, values, lane)
                tensor_memory.wait_loads()
                for c in cutlass.range_constexpr(0, _CHUNK, 2):
                    pair = (values[c], values[c + 1])
                    values[c], values[c + 1] = cute.arch.mul_packed_f32x2(pair, (scale, scale))
                rounded = cute.make_rmem_tensor(_CHUNK, context.dtype)
                convert(values, rounded)
                swizzled_rows.store_columns(rounded, tile, TILE, thread, column, panel)


@cute.jit
def _send(context, work, name: cutlass.Constexpr) -> None:
    """The staged tile of dK or dV to global memory."""
    is_k = name == "dk"
    tma, mX = context.gmem.dk if is_k else context.gmem.dv
    sX = context.shared.sdK if is_k else context.shared.sdV
    width = context.config.head_dim if is_k else context.config.head_dim_v
    gX = cute.local_tile(mX[None, None, work.head_kv, work.batch], (TILE, width), (None, 0))
    source, target = cpasync.tma_partition(
        tma, 0, cute.make_layout(1), cute.group_modes(sX, 0, 2), cute.group_modes(gX, 0, 2)
    )
    cute.copy(tma, source[None, 0], target[None, work.key // TILE])


@cute.jit
def store_gradients(context, work, half: Int32, thread: Int32, lane: Int32) -> None:
    """dV, then dK, of the CTA's keys; by all compute threads."""
    config, barriers, shared = context.config, context.barriers, context.shared
    for name in ("dv", "dk"):
        barriers[f"{name}_full"].wait(0, 0)
        tensor_memory.fence_after_sync()
        is_k = name == "dk"
        base = context.tmem + (config.tensor_memory.dk if is_k else config.tensor_memory.dv)
        tile = shared.dk if is_k else shared.dv
        width = config.head_dim if is_k else config.head_dim_v
        scale = context.scale if is_k else Float32(1.0)
        _stage(context, base, tile, scale, half, width, thread, lane)
        tensor_memory.fence_before_sync()
        cute.arch.fence_view_async_shared()
        cute.arch.barrier(barrier_id=NamedBarrier.GRADIENT, number_of_threads=HALVES * TILE)
        if (half == 0) & (lane == 0):
            with cute.arch.elect_one():
                _send(context, work, name)
                cute.arch.cp_async_bulk_commit_group()
                cute.arch.cp_async_bulk_wait_group(0, read=False)
