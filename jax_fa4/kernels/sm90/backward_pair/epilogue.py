"""The end of a block of keys: dK and dV through shared memory by TMA.

CONTRACT: K's and V's own shared memory stages them, when nobody reads it any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute

from jax_fa4.kernels.sm90.backward import copies
from jax_fa4.kernels.sm90.backward_pair.barriers import NamedBarrier
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, TILE_N, WARPGROUP

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
def run(context, sums, staged, number, thread_index) -> None:
    """Write one warpgroup's dK or dV of this CTA's keys; `number` tells the warpgroups apart."""
    cute.arch.barrier(barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=_READERS)
    for half in cutlass.range_constexpr(HALVES):
        tile = (TILE_N, cute.size(staged.shared, mode=[1]) // HALVES)
        part = cute.local_tile(staged.shared[None, None, 0], tile, (0, half))
        copies.stage(context, staged.tiled_mma, sums[half], part, thread_index)
    cute.arch.fence_view_async_shared()
    cute.arch.barrier(barrier_id=int(NamedBarrier.EPILOGUE) + number, number_of_threads=WARPGROUP)
    if thread_index == 0:
        copies.store_keys(context, staged.gmem, staged.shared, 0)
        cute.arch.cp_async_bulk_commit_group()
        cute.arch.cp_async_bulk_wait_group(0, read=True)
