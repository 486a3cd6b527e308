"""P and dS in shared memory, keys by queries, and what both warpgroups do with stages.

A stage has two slots: this CTA's, where P is written and dS takes its place, and the other CTA's
dS. A warp's 16 keys are contiguous, and hold P of the same keys: by thread, as registers have it.
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward_pair.config import PAIR, TILE_M, TILE_N
from jax_fa4.kernels.toolkit.bulk_copies import send

_SLOT = TILE_M * TILE_N  # elements
_WARPS = 4
_PIECE = 8  # elements of 16 bytes


def _own_rows(context, stage, thread_index) -> cute.Pointer:
    """Where this warp's 16 keys of this CTA's slot begin."""
    warp = cute.arch.make_warp_uniform(thread_index // 32)
    place = cute.assume(stage * (PAIR * _SLOT) + warp * (_SLOT // _WARPS), divby=_SLOT // _WARPS)
    return cute.recast_ptr(context.shared.sdS.iterator, dtype=context.dtype) + place


def _pieces(context, registers, stage, thread_index):
    """(registers, shared memory) of this thread's P, 16 bytes each."""
    rows = _own_rows(context, stage, thread_index)
    rows = rows + cute.assume(thread_index % 32 * _PIECE, divby=_PIECE)
    for i in range(cute.size(registers) // _PIECE):
        yield tuple(
            cute.make_tensor(pointer, cute.make_layout(_PIECE))
            for pointer in (registers.iterator + i * _PIECE, rows + i * (32 * _PIECE))
        )


@cute.jit
def write_probabilities(context, operand, stage, thread_index):
    """P, an operand in registers, to this CTA's slot."""
    for source, target in _pieces(context, operand, stage, thread_index):
        cute.autovec_copy(source, target)


@cute.jit
def read_probabilities(context, acc, stage, thread_index):
    """P of this CTA's slot, in the order of `acc`."""
    tSrP = cute.make_rmem_tensor(acc.layout, context.dtype)
    for target, source in _pieces(context, tSrP, stage, thread_index):
        cute.autovec_copy(source, target)
    return tSrP


@cute.jit
def wait(full, stages) -> None:
    """Wait for both halves of a tile."""
    for stage, parity in stages:
        full.wait(stage, parity)


@cute.jit
def release(empty, stages) -> None:
    """Give both halves of a tile back, as a warp."""
    for stage, _ in stages:
        empty.arrive_as_warp(stage)


@cute.jit
def write_gradients(context, operand, acc, stage, thread_index):
    """dS, an operand in registers, of the columns of `acc`, to this CTA's slot."""
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, Float32)
    copy = cute.make_tiled_copy_C(atom, context.tiled_mma_s).get_slice(thread_index)
    registers = cute.make_tensor(operand.iterator, acc.layout)
    cute.copy(
        copy, copy.retile(registers), copy.partition_D(context.shared.sdS[None, None, stage * PAIR])
    )


@cute.jit
def publish(context, stage, thread_index):
    """Say that this warp's dS is written, and send it to the other CTA.

    The other CTA's same warp sends as many bytes here.
    """
    full = context.barriers["ds_full"]
    cute.arch.fence_view_async_shared()
    source = _own_rows(context, stage, thread_index)
    size = _SLOT // _WARPS * context.dtype.width // 8
    cute.arch.sync_warp()
    lane, other = thread_index % 32, 1 - context.position.rank
    if lane == 0:
        full.arrive_with_bytes(stage, size)
    else:
        full.arrive(stage)
    send(source, source + _SLOT, size, full.at(stage), (lane, other))
