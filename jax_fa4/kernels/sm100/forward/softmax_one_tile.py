"""A softmax warpgroup where a CTA has one tile: t of two takes slot t, or one takes both.

CONTRACT: that of `softmax`, for the blocks that are this warpgroup's.
"""

from __future__ import annotations

from dataclasses import replace

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.forward import bounded
from jax_fa4.kernels.sm100.forward.config import SLOTS
from jax_fa4.kernels.sm100.forward.roles import (
    first_tile,
    next_tile,
    packed_tile,
    range_of_blocks,
)
from jax_fa4.kernels.sm100.forward.softmax_row import (
    Edges,
    Row,
    edges_of,
    look_at,
    look_on,
    make_row,
    take_block,
    tell,
)
from jax_fa4.kernels.toolkit import row_softmax


def _at_slot(context, row: Row, slot: Int32) -> Row:
    """`row` with its next block of scores in `slot`."""
    columns = context.config.tensor_memory
    scores = context.tmem + columns.scores_of(slot)
    probabilities = context.tmem + columns.probabilities_of(slot)
    return replace(row, slot=slot, scores=scores, probabilities=probabilities)


@cute.jit
def _dealt_blocks(context, row: Row, position: Int32, top: Int32, turn: Int32, ends, edges):
    """Those of blocks [first, last) that are this warpgroup's, where a tile has one or two.

    Block `top` is the tile's last, and `turn` the number in the CTA that it has; of two
    warpgroups, t takes those of parity t.
    """
    first, last = ends
    groups = context.config.outputs
    start = top - last + 1
    start = start + ((turn + start + row.t) & (groups - 1))
    look_at(context, row, position, top - start)
    for i in cutlass.range(start, top + 1 - first, groups, unroll=1):
        here = row
        if cutlass.const_expr(groups < SLOTS):
            here = _at_slot(context, row, (turn + i) & (SLOTS - 1))
        take_block(context, here, edges, True)
        look_on(row, groups)


@cute.jit
def run(context, t: Int32) -> None:
    """Walk this CTA's tiles as softmax `t`."""
    row = make_row(context, t)
    groups, packing = context.config.outputs, context.packing
    _, place = packing.place_of(row.thread)
    done = Int32(0)
    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        work = packed_tile(context, tile)
        positions = packing.tokens * context.config.cta_group
        blocks = range_of_blocks(context, tile, work.product_row, positions)
        visits = blocks.last - blocks.first
        top, position = blocks.last - 1, work.row + place
        row.running[0] = -Float32.inf
        row.running[1] = Float32(0.0)
        right = (blocks.right_first, blocks.last)
        middle = (blocks.unmasked_first, blocks.unmasked_last)
        left = (blocks.first, blocks.left_last)
        if cutlass.const_expr(context.config.bounded):
            bounded.take_own(context, row, tile, position)
        _dealt_blocks(context, row, position, top, done, right, edges_of(context, Edges.RIGHT))
        _dealt_blocks(context, row, position, top, done, middle, None)
        _dealt_blocks(context, row, position, top, done, left, edges_of(context, Edges.BOTH))
        if ((done + t) & (groups - 1)) < visits:
            shift = row_softmax.shift_of(row.running[0], context.scale_log2)
            tell(context, row, row.running[1], shift)
        done = done + visits
        tile = next_tile(context, tile)
