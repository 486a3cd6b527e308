"""Copies that Hopper's backward kernels share: keys in, dK and dV out, and panels of dQ."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int64
from cutlass.cute.nvgpu import cpasync
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward.config import DQ_ROWS, KEYS_PER_WARPGROUP
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.bulk_copies import add_four

EVICT_FIRST = Int64(0x12F0000000000000)  # a cache policy: what passes through L2 once


def partition(tma, tiles, shared):
    """(global memory by tile, shared memory by stage) of a TMA copy of whole tiles."""
    by_stage, by_tile = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 2),
        cute.group_modes(tiles, 0, 2),
    )
    return by_tile, by_stage


def key_tiles(context, gmem, shared, column):
    """`partition` of K, V, dK or dV by 64 keys, at one tile of columns."""
    tma, tensor = gmem
    tile = (KEYS_PER_WARPGROUP, cute.size(shared, mode=[1]))
    rows = tensor[None, None, context.position.head_kv, context.position.batch]
    return partition(tma, cute.local_tile(rows, tile, (None, column)), shared)


@cute.jit
def load_keys(context, gmem, shared, which: int, block, column):
    """Load the tiles of a block of keys of K or V, one a consumer, onto one barrier."""
    consumers, barriers = context.config.consumers, context.barriers["kv_full"]
    source, destination = key_tiles(context, gmem, shared, column)
    bar = barriers.at(which)
    with cute.arch.elect_one():
        barriers.arrive_with_bytes(which, cute.size_in_bytes(context.dtype, shared.layout))
    for i in cutlass.range_constexpr(consumers):
        tile = source[None, block * consumers + i]
        cute.copy(gmem[0], tile, destination[None, i], tma_bar_ptr=bar)


@cute.jit
def stage(context, tiled_mma, acc, tile, thread_index):
    """Round an accumulator into a tile of shared memory."""
    registers = cute.make_rmem_tensor(acc.layout, context.dtype)
    convert(acc, registers)
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, Float32)
    copy = cute.make_tiled_copy_C(atom, tiled_mma).get_slice(thread_index)
    cute.copy(copy, copy.retile(registers), copy.partition_D(tile))


@cute.jit
def store_keys(context, gmem, shared, wg):
    """Store a consumer's 64 keys of dK or dV; for one thread."""
    target, source = key_tiles(context, gmem, shared, 0)
    number = context.position.key_block * context.config.consumers + wg
    cute.copy(gmem[0], source[None, wg], target[None, number])


@cute.jit
def add_panel(context, acc_dQ, head, block, panel, thread_index):
    """Add a panel of dQ to global memory by vector reductions.

    Panels of a row of 64 rows follow one another; within one registers 4 g .. 4 g + 3 of a thread
    are floats 512 g + 4 thread .. + 3, so that a warp adds 512 bytes in a row.
    """
    config = context.config
    row = (Int64(context.position.batch) * context.heads_q + head) * context.rows_padded
    start = (row + block * config.tile_m) * config.head_dim + panel * (DQ_ROWS * config.dq_columns)
    add_at(context, acc_dQ, start + thread_index * 4)


@cute.jit
def add_at(context, acc_dQ, start):
    """Add a panel of dQ; `start` is this thread's first float of dq_accum."""
    target = context.gmem.dq_accum + cute.assume(start, divby=4)
    flat = cute.make_tensor(acc_dQ.iterator, cute.make_layout(cute.size(acc_dQ)))
    for group in cutlass.range_constexpr(cute.size(acc_dQ) // 4):
        add_four(target + group * 512, flat, 4 * group)
