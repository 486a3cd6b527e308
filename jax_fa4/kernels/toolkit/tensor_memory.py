"""Rows of tensor memory to registers and back: one thread a lane, one register a column.

The shape is 32x32b (PTX ISA, tcgen05.ld): warp w of a warpgroup owns lanes 32 w .. 32 w + 31.
Both directions are asynchronous; the caller waits (`wait_loads`, `wait_stores`).
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import tcgen05

LANES = 128
_LANE_STRIDE = 1 << 16  # an address is lane << 16 | column

wait_loads = cute.arch.fence_view_async_tmem_load
wait_stores = cute.arch.fence_view_async_tmem_store


def fence_before_sync() -> None:
    """Order this thread's tcgen05 operations before what it does next (PTX ISA 9.7.16.6.3)."""
    cute.arch.inline_ptx("tcgen05.fence::before_thread_sync;")


def fence_after_sync() -> None:
    """Order this thread's next tcgen05 operations after what it waited for (9.7.16.6.3)."""
    cute.arch.inline_ptx("tcgen05.fence::after_thread_sync;")


def _columns(base: cute.Pointer, columns: int) -> cute.Tensor:
    layout = cute.make_layout((LANES, columns), stride=(_LANE_STRIDE, 1))
    return cute.make_tensor(base, layout)


@cute.jit
def load(base: cute.Pointer, registers: cute.Tensor, thread: Int32) -> None:
    """Columns base .. of this thread's lane into `registers`, a power of two up to 128.

    `thread`: any of the warp, counted in the warpgroup; better one that is the same in all lanes.
    """
    columns = cute.size(registers)
    op = tcgen05.Ld32x32bOp(tcgen05.Repetition(columns))
    source = _columns(base, columns)
    copy = tcgen05.make_tmem_copy(cute.make_copy_atom(op, Float32), source)
    partition = copy.get_slice(thread).partition_S(source)
    target = cute.make_tensor(
        registers.iterator,
        copy.get_slice(thread).partition_D(cute.make_identity_tensor((LANES, columns))).shape,
    )
    cute.copy(copy, partition, target)


@cute.jit
def store(registers: cute.Tensor, base: cute.Pointer, thread: Int32) -> None:
    """`registers` into columns base .. of this thread's lane."""
    columns = cute.size(registers)
    op = tcgen05.St32x32bOp(tcgen05.Repetition(columns))
    target = _columns(base, columns)
    copy = tcgen05.make_tmem_copy(cute.make_copy_atom(op, Float32), target)
    partition = copy.get_slice(thread).partition_D(target)
    source = cute.make_tensor(
        registers.iterator,
        copy.get_slice(thread).partition_S(cute.make_identity_tensor((LANES, columns))).shape,
    )
    cute.copy(copy, source, partition)
