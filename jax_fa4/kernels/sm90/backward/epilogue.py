"""The end of a block of keys: dK and dV through shared memory by TMA.

CONTRACT: K's and V's own shared memory stages them, when no consumer reads it any more.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import cpasync
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward.barriers import NamedBarrier
from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP
from jax_fa4.kernels.toolkit.accumulators import convert


@cute.jit
def release_keys(context) -> None:
    """Say, as one who reads K no more, that its shared memory may be written."""
    cute.arch.barrier_arrive(
        barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=context.config.key_threads
    )


@cute.jit
def _stage(context, acc, tile, thread_index):
    """Round an accumulator into a tile of shared memory."""
    registers = cute.make_rmem_tensor(acc.layout, context.dtype)
    convert(acc, registers)
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, Float32)
    copy = cute.make_tiled_copy_C(atom, context.tiled_mma_kv).get_slice(thread_index)
    cute.copy(copy, copy.retile(registers), copy.partition_D(tile))


@cute.jit
def _store(context, gmem, shared, wg):
    """Store this warpgroup's tile; for one thread."""
    tma, tensor = gmem
    position = context.position
    tile = (KEYS_PER_WARPGROUP, cute.size(shared, mode=[1]))
    tiles = cute.local_tile(tensor[None, None, position.head_kv, position.batch], tile, (None, 0))
    source, target = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 2),
        cute.group_modes(tiles, 0, 2),
    )
    number = position.key_block * context.config.consumers + wg
    cute.copy(tma, source[None, wg], target[None, number])


@cute.jit
def run(context, frag, wg, thread_index) -> None:
    """Write dK, which still wants the scale, and dV of this warpgroup's 64 keys."""
    cute.arch.barrier(
        barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=context.config.key_threads
    )
    for i in cutlass.range_constexpr(cute.size(frag.acc_dK)):
        frag.acc_dK[i] = frag.acc_dK[i] * context.scale
    _stage(context, frag.acc_dV, context.shared.sV[None, None, wg], thread_index)
    _stage(context, frag.acc_dK, context.shared.sK[None, None, wg], thread_index)
    cute.arch.fence_view_async_shared()
    cute.arch.barrier(barrier_id=int(NamedBarrier.EPILOGUE) + wg, number_of_threads=128)
    if thread_index == 0:
        _store(context, context.gmem.dv, context.shared.sV, wg)
        _store(context, context.gmem.dk, context.shared.sK, wg)
        cute.arch.cp_async_bulk_commit_group()
        cute.arch.cp_async_bulk_wait_group(0, read=True)
