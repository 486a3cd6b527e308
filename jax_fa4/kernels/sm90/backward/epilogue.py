"""The end of a block of keys: dK and dV through shared memory by TMA.

CONTRACT: K's and V's own shared memory stages them, when no consumer reads it any more.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute

from jax_fa4.kernels.sm90.backward import copies
from jax_fa4.kernels.sm90.backward.barriers import NamedBarrier


@cute.jit
def release_keys(context) -> None:
    """Say, as one who reads K no more, that its shared memory may be written."""
    cute.arch.barrier_arrive(
        barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=context.config.key_threads
    )


@cute.jit
def run(context, frag, wg, thread_index) -> None:
    """Write dK, which still wants the scale, and dV of this warpgroup's 64 keys."""
    cute.arch.barrier(
        barrier_id=int(NamedBarrier.KEYS_READ), number_of_threads=context.config.key_threads
    )
    for i in cutlass.range_constexpr(cute.size(frag.acc_dK)):
        frag.acc_dK[i] = frag.acc_dK[i] * context.scale
    copies.stage(
        context, context.tiled_mma_kv, frag.acc_dV, context.shared.sV[None, None, wg], thread_index
    )
    copies.stage(
        context, context.tiled_mma_kv, frag.acc_dK, context.shared.sK[None, None, wg], thread_index
    )
    cute.arch.fence_view_async_shared()
    cute.arch.barrier(barrier_id=int(NamedBarrier.EPILOGUE) + wg, number_of_threads=128)
    if thread_index == 0:
        copies.store_keys(context, context.gmem.dv, context.shared.sV, wg)
        copies.store_keys(context, context.gmem.dk, context.shared.sK, wg)
        cute.arch.cp_async_bulk_commit_group()
        cute.arch.cp_async_bulk_wait_group(0, read=True)
