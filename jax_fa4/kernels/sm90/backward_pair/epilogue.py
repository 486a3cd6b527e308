"""The end of a block of keys: dK and dV through shared memory by TMA.

CONTRACT: K's and V's own shared memory stages them, when nobody reads it any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import cpasync
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward_pair.barriers import NamedBarrier
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, TILE_N, WARPGROUP
from jax_fa4.kernels.toolkit.accumulators import convert

_READERS = 3 * WARPGROUP


@cute.jit
def release_keys() -> None:
    """Say, as one who reads K no more, that its shared memory may be written."""
    cute.arch.barrier_arrive(barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=_READERS)


@dataclass(frozen=True)
class Staged:
    """Of dK or dV: the product whose accumulators it is, where it goes, and from where."""

    tiled_mma: cute.TiledMma
    gmem: tuple[cute.CopyAtom, cute.Tensor]
    shared: cute.Tensor


@cute.jit
def _stage(context, tiled_mma, acc, tile, thread_index):
    """Round an accumulator into a tile of shared memory."""
    registers = cute.make_rmem_tensor(acc.layout, context.dtype)
    convert(acc, registers)
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, Float32)
    copy = cute.make_tiled_copy_C(atom, tiled_mma).get_slice(thread_index)
    cute.copy(copy, copy.retile(registers), copy.partition_D(tile))


@cute.jit
def _store(context, staged):
    """Store this CTA's tile of 64 keys; for one thread."""
    (tma, tensor), shared = staged.gmem, staged.shared
    position = context.position
    tile = (TILE_N, cute.size(shared, mode=[1]))
    tiles = cute.local_tile(tensor[None, None, position.head_kv, position.batch], tile, (None, 0))
    source, target = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 2),
        cute.group_modes(tiles, 0, 2),
    )
    cute.copy(tma, source[None, 0], target[None, position.key_block])


@cute.jit
def run(context, sums, staged, number, thread_index) -> None:
    """Write one warpgroup's dK or dV of this CTA's keys; `number` tells the warpgroups apart."""
    cute.arch.barrier(barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=_READERS)
    for half in cutlass.range_constexpr(HALVES):
        tile = (TILE_N, cute.size(staged.shared, mode=[1]) // HALVES)
        part = cute.local_tile(staged.shared[None, None, 0], tile, (0, half))
        _stage(context, staged.tiled_mma, sums[half], part, thread_index)
    cute.arch.fence_view_async_shared()
    cute.arch.barrier(barrier_id=int(NamedBarrier.EPILOGUE) + number, number_of_threads=WARPGROUP)
    if thread_index == 0:
        _store(context, staged)
        cute.arch.cp_async_bulk_commit_group()
        cute.arch.cp_async_bulk_wait_group(0, read=True)
