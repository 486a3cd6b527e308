"""dQ in panels of 24, 24 and 16 columns out of 64, for a warpgroup that has 40 registers.

Accumulators begin at register 24, so that 32 columns do not fit. With 16 each, dS would be read
eight times at head dim 128; so it is read six times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int64
from cutlass.cute.nvgpu import warpgroup
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward import copies, products
from jax_fa4.kernels.sm90.backward.config import DQ_ROWS

_ATOM = 64  # columns of shared memory that are contiguous
_WIDE, _REST = 24, 16
_GROUP = 8 * DQ_ROWS  # floats of dq_accum: 8 columns of 64 rows


@dataclass(frozen=True)
class Panel:
    """Panels of one width: their product, K as its operand, and registers."""

    tiled_mma: cute.TiledMma
    keys: Any  # as `multiply` takes it: tensors (MMA, panel, depth, consumers)
    acc_dQ: cute.Tensor


def make_product(dtype) -> cute.TiledMma:
    """Of a wide panel."""
    major, shared = warpgroup.OperandMajorMode.MN, warpgroup.OperandSource.SMEM
    return hopper.make_trivial_tiled_mma(
        dtype,
        dtype,
        major,
        major,
        Float32,
        atom_layout_mnk=(1, 1, 1),
        tiler_mn=(DQ_ROWS, _WIDE),
        a_source=shared,
    )


def make_operand(tiled_mma: cute.TiledMma, tensor: cute.Tensor) -> cute.Tensor:
    """K, or a part of it, as the operand of wide panels."""
    thread = tiled_mma.get_slice(0)
    keys = products.transposed(tensor).layout
    (column, atom), rows, consumers = keys.stride[0], keys[1], keys[2]
    atoms = keys.shape[0][1]
    layout = cute.make_layout(
        ((_WIDE, (2, atoms)), rows.shape, consumers.shape),
        stride=((column, (_WIDE * column, atom)), rows.stride, consumers.stride),
    )
    wide = cute.make_tensor(tensor.iterator, layout)
    return thread.make_fragment_B(thread.partition_B(wide))


def make_panels(context, tQrK, acc_dQ) -> tuple[Panel, Panel]:
    """The wide ones, and those that the operand and registers of 16 columns are for."""
    tiled_mma = make_product(context.dtype)
    keys = make_operand(tiled_mma, context.shared.sK)
    return (
        Panel(tiled_mma, keys, products.accumulator(tiled_mma, _WIDE)),
        Panel(context.tiled_mma_q, tQrK, acc_dQ),
    )


def make_panels_of_pair(context, operands, acc_dQ) -> tuple[Panel, Panel]:
    """The same for half of the columns, with this CTA's keys and the other's."""
    tiled_mma, shared = make_product(context.dtype), context.shared
    keys = make_operand(tiled_mma, shared.sK), make_operand(tiled_mma, shared.sOtherK)
    return (
        Panel(tiled_mma, keys, products.accumulator(tiled_mma, _WIDE)),
        Panel(context.tiled_mma_q, operands, acc_dQ),
    )


@cute.jit
def _add(context, panel, multiply, number, start) -> None:
    multiply(panel.tiled_mma, panel.keys, panel.acc_dQ, number)
    copies.add_at(context, panel.acc_dQ, start)


@cute.jit
def add_block(context, panels, multiply, head, block, thread_index) -> None:
    """Make a block of dQ and add it to global memory, as copies.add_panel orders it."""
    config, (wide, rest) = context.config, panels
    row = (Int64(context.position.batch) * context.heads_q + head) * context.rows_padded
    start = (row + block * config.tile_m) * config.head_dim + thread_index * 4
    columns = config.head_dim // config.ctas
    if cutlass.const_expr(config.ctas > 1):
        start = start + context.position.rank * (columns // 8 * _GROUP)
    for atom in cutlass.range(columns // _ATOM, unroll=1):
        group = atom * (_ATOM // 8)
        for i in cutlass.range(2, unroll=1):
            place = start + (group + i * (_WIDE // 8)) * _GROUP
            _add(context, wide, multiply, (i, atom), place)
        place = start + (group + 2 * _WIDE // 8) * _GROUP
        _add(context, rest, multiply, (2 * _WIDE // _REST, atom), place)
