"""The end of a tile: output through shared memory by TMA, lse by ordinary stores.

CONTRACT: each consumer stages its own 64 rows in its own stage of sO. On return the
stage may be overwritten by the next tile's epilogue only after the wait at the start of
`run`. Where it lies in sV it may be overwritten by TMA only after `output_was_read`.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int64
from cutlass.cute.nvgpu import cpasync
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.forward.barriers import NamedBarrier
from jax_fa4.kernels.sm90.forward.config import ROWS_PER_WARPGROUP
from jax_fa4.kernels.sm90.forward.context import EVICT_FIRST
from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, ThreadCoordinates, convert


@cute.jit
def _store_lse(context, lse, position, thread):
    row, head, batch = position
    mLSE, seqlen_q = context.gmem.mLSE, context.band.seqlen_q
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        i = row + thread.row + 8 * r
        if (thread.column == 0) & (i < seqlen_q):
            mLSE[i, head, batch] = lse[r]


@cute.jit
def run(context, frag, position, wg, thread_index) -> None:
    """Write the 64 rows at `position` = (row, head, batch)."""
    row, head, batch = position
    config = context.config
    _store_lse(context, frag.row_max, position, ThreadCoordinates.of_thread(thread_index))

    is_storing_thread = thread_index == 0
    if cutlass.const_expr(config.output_in_values):
        # Every consumer must have multiplied the values that lie there.
        cute.arch.barrier(
            barrier_id=int(NamedBarrier.VALUES_READ), number_of_threads=128 * config.consumers
        )
    else:
        # sO must have been read by the store of this warpgroup's previous tile.
        if is_storing_thread:
            cute.arch.cp_async_bulk_wait_group(0, read=True)
        _sync(wg)

    rO = cute.make_rmem_tensor(frag.acc_O.layout, context.dtype)
    convert(frag.acc_O, rO)
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, Float32)
    copy = cute.make_tiled_copy_C(atom, context.tiled_mma_pv).get_slice(thread_index)
    sO = context.shared.sO[None, None, wg]
    cute.copy(copy, copy.retile(rO), copy.partition_D(sO))
    cute.arch.fence_view_async_shared()
    _sync(wg)

    tma, mO = context.gmem.o
    gO = cute.local_tile(
        mO[None, None, head, batch], (ROWS_PER_WARPGROUP, config.head_dim_v), (None, 0)
    )
    source, target = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(context.shared.sO, 0, 2),
        cute.group_modes(gO, 0, 2),
    )
    if is_storing_thread:
        cute.copy(
            tma,
            source[None, wg],
            target[None, row // ROWS_PER_WARPGROUP],
            cache_policy=Int64(EVICT_FIRST),
        )
        cute.arch.cp_async_bulk_commit_group()


@cute.jit
def output_was_read(context, thread_index) -> None:
    """Wait for this consumer's last store, and tell the producer."""
    if thread_index == 0:
        cute.arch.cp_async_bulk_wait_group(0, read=True)
        cute.arch.mbarrier_arrive(context.pipelines.output_read)


@cute.jit
def drain() -> None:
    """Shared memory outlives the stores that read it."""
    cute.arch.cp_async_bulk_wait_group(0, read=True)


@cute.jit
def _sync(wg):
    cute.arch.barrier(barrier_id=int(NamedBarrier.EPILOGUE) + wg, number_of_threads=128)
