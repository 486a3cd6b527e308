"""A softmax warpgroup: thread i owns row i of its tile of scores.

CONTRACT: for every block that tile t visits, warpgroup t takes S[t] at s_full, leaves P[t] in
tensor memory, and arrives at pv_ready after three quarters of it and at p_tail after all. It tells
the correction warps each row's scale for every block but a tile's first, in sStats[.., 0, t], and
at the tile's end the row's sum, in sStats[.., 1, t]; lse it writes itself. It arrives at s_empty
once it has its scores in registers, and tells of a scale, and writes P, when p_empty says that
the product with the P before is done. With one tile a CTA, where P takes the place of S, it has
neither; they hear of every block's scale, and at the end of sum and shift.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.forward import bounded
from jax_fa4.kernels.sm100.forward.config import ROWS
from jax_fa4.kernels.sm100.forward.roles import (
    first_row,
    first_tile,
    make_turn,
    next_tile,
    part_of,
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
    tell_sum,
    with_descales,
)
from jax_fa4.kernels.toolkit import row_softmax
from jax_fa4.kernels.toolkit.forward_arrays import LN_2


@cute.jit
def _blocks(context, row: Row, position: Int32, ends, edges):
    """Blocks [first, last), from the last to the first."""
    first, last = ends
    told = row.told
    look_at(context, row, position, last - 1)
    for _ in cutlass.range(last - first, unroll=1):
        take_block(context, row, edges, told[0] != 0)
        look_on(row, 1)
        told[0] = Int32(1)


@cute.jit
def _write_lse(context, total: Float32, tile: Int32, position: Int32, shift: Float32) -> None:
    """lse of this row; -inf if it has seen nothing."""
    _, head, batch = context.scheduler.decode(tile)
    mLSE = context.gmem.mLSE
    if cutlass.const_expr(context.config.p_factor != 1):
        total = total * (1 / context.config.p_factor)
    # The very shift that the exponents had: its rounding is in `total`, and cancels.
    lse = (cute.math.log2(total, fastmath=True) - shift) * LN_2
    if position < context.band.seqlen_q:
        mLSE[position, head, batch] = -Float32.inf if total == 0.0 else lse


@cute.jit
def run(context, t: Int32) -> None:
    """Walk this CTA's tiles as softmax `t`; see the contract above."""
    config, row = context.config, make_row(context, t)
    tile, turn = first_tile(context), make_turn(context)
    while tile < context.scheduler.tiles():
        first = first_row(context, tile)
        product_row = first + t * config.rows
        if product_row < context.band.seqlen_q:
            blocks = range_of_blocks(context, tile, product_row, config.rows)
            position = first + part_of(context, t) * ROWS + row.thread
            here = with_descales(context, tile)
            row.running[0] = -Float32.inf
            row.running[1] = Float32(0.0)
            row.told[0] = Int32(0)
            right = (blocks.right_first, blocks.last)
            middle = (blocks.unmasked_first, blocks.unmasked_last)
            left = (blocks.first, blocks.left_last)
            if cutlass.const_expr(config.bounded):
                bounded.take_own(context, row, tile, position)
            _blocks(here, row, position, right, edges_of(context, Edges.RIGHT))
            _blocks(here, row, position, middle, None)
            _blocks(here, row, position, left, edges_of(context, Edges.BOTH))
            shift = row_softmax.shift_of(row.running[0], here.scale_log2)
            if cutlass.const_expr(config.bounded):
                _, head, _ = context.scheduler.decode(tile)
                row.running[1], total, shift = bounded.with_sink(
                    context, head, row.running[1], shift
                )
                tell_sum(context, row)
                _write_lse(context, total, tile, position, shift)
            else:
                tell_sum(context, row)
                _write_lse(context, row.running[1], tile, position, shift)
        tile = next_tile(context, tile, turn)
    # Stay until the last product has said so: nothing orders its arrivals at two barriers.
    context.barriers["p_empty"].wait(t, row.s_full[0] ^ 1)
