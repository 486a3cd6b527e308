"""A block of scores of one row: from tensor memory to P, and what others must know of it.

All that a softmax warpgroup does for a block, whichever blocks are its: `softmax` has the contract.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, max, min

from jax_fa4.kernels.sm100.forward import bounded, softcap
from jax_fa4.kernels.sm100.forward.config import (
    P_HEAD,
    POLYNOMIAL_PERIOD,
    ROWS,
    SLOTS,
    TILE_N,
    WARP_SIZE,
)
from jax_fa4.kernels.sm100.forward.roles import NamedBarrier
from jax_fa4.kernels.toolkit import row_softmax, tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.exponential import exp2_by_polynomial
from jax_fa4.kernels.toolkit.masks import mask_row_by_words, mask_row_outside
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next

fma = cute.math.fma
_LOAD = 32  # columns of S that one instruction loads


class Edges(Enum):
    """Which edges of the band a block of keys may have; or bounds of rows in its place."""

    RIGHT = 1
    BOTH = 2
    BOUNDS = 3  # none: what each row sees is its own


def edges_of(context, edges: Edges) -> Edges:
    """Those of the band, or the bounds that stand for it."""
    return Edges.BOUNDS if context.config.bounded else edges


@dataclass(frozen=True)
class Row:
    """This thread's row of warpgroup `t`, and how far its warp is; registers where a tensor."""

    t: Int32
    slot: Int32  # of its scores; t itself unless one warpgroup has all slots
    thread: Int32  # of the warpgroup: the row in its tile, the lane of tensor memory
    scores: cute.Pointer  # S[slot] in tensor memory
    probabilities: cute.Pointer  # P[slot]
    lane: Int32  # the warp's first
    place: Int32  # of this warp's barriers for statistics
    running: cute.Tensor  # maximum and sum
    s_full: cute.Tensor  # uses; with two tiles the parity of the next one
    told: cute.Tensor  # whether a block of this tile is behind
    stats_empty: cute.Tensor
    visible: cute.Tensor  # first and last key that the row sees, from the next block's first on
    own: bounded.Own | None  # where rows have bounds of their own


def make_row(context, t: Int32) -> Row:
    thread = cute.arch.thread_idx()[0] % ROWS
    warp = cute.arch.make_warp_uniform(thread // 32)
    columns = context.config.tensor_memory
    return Row(
        t=t,
        slot=t,
        thread=thread,
        scores=context.tmem + columns.scores_of(t),
        probabilities=context.tmem + columns.probabilities_of(t),
        lane=32 * warp,
        place=4 * t + warp,
        running=cute.make_rmem_tensor(cute.make_layout(2), Float32),
        s_full=make_counters(1),
        told=make_counters(1),
        stats_empty=make_counters(1),
        visible=make_counters(2),
        own=bounded.make_own() if context.config.bounded else None,
    )


@cute.jit
def _load_scores(context, row: Row) -> cute.Tensor:
    """This thread's row of S, in registers."""
    s_full = context.barriers["s_full"]
    if cutlass.const_expr(context.config.q_tiles == 1):
        turns = SLOTS // context.config.outputs  # slots that this warpgroup takes in turn
        wait_next(s_full, row.s_full, row.slot, counter=0, turns=turns)
    else:
        s_full.wait(row.slot, row.s_full[0])
        row.s_full[0] = row.s_full[0] ^ 1
    tensor_memory.fence_after_sync()
    scores = cute.make_rmem_tensor(TILE_N, Float32)
    for first in cutlass.range_constexpr(0, TILE_N, _LOAD):
        part = cute.make_tensor(scores.iterator + first, cute.make_layout(_LOAD))
        tensor_memory.load(row.scores + first, part, row.lane)
    tensor_memory.wait_loads()
    config = context.config
    if cutlass.const_expr(not config.tensor_memory.p_over_s):
        tensor_memory.fence_before_sync()
        # `by_lanes`: ptxas moves an elected lane's arrival below the row's maximum.
        context.barriers["s_empty"].arrive_as_warp(row.t if config.score_slots == SLOTS else 0)
    return scores


@cute.jit
def tell(context, row: Row, first: Float32, second) -> None:
    """Hand one number or two to the correction warp of the same rows."""
    sStats, barriers = context.shared.sStats, context.barriers
    wait_next(barriers["stats_empty"], row.stats_empty, row.place, counter=0, producer=True)
    sStats[row.thread, 0, row.t] = first
    if cutlass.const_expr(second is not None):
        sStats[row.thread, 1, row.t] = second
    barriers["stats_full"].arrive_as_warp(row.place)


@cute.jit
def tell_sum(context, row: Row) -> None:
    """Hand the row's sum over."""
    sStats, barriers = context.shared.sStats, context.barriers
    wait_next(barriers["stats_empty"], row.stats_empty, row.place, counter=0, producer=True)
    sStats[row.thread, 1, row.t] = row.running[1]
    barriers["stats_full"].arrive_as_warp(row.place)


def _wait_for_product(context, row: Row) -> None:
    """Until the product with V before this block's is done."""
    # One product a block: the parity is that of the scores after these.
    context.barriers["p_empty"].wait(row.t, row.s_full[0])


@cute.jit
def _tell_scale(context, row: Row, scale: Float32, tells) -> None:
    """Hand a block's scale over, if the correction warp waits for it: `tells`.

    That it has read the scale before needs no barrier: it did so before it let the product before
    go, whose end this waits for. Nor, therefore, does it wait for O, or the next store of P.
    """
    _wait_for_product(context, row)
    tensor_memory.fence_after_sync()
    if cutlass.const_expr(context.config.cta_group == 2):
        # A pair's barriers of tensor memory order nothing else, so that the reader answers.
        uses = row.stats_empty
        context.barriers["stats_empty"].wait(row.place, (uses[0] & 1) ^ 1)
        uses[0] = uses[0] + Int32(tells)
    context.shared.sStats[row.thread, 0, row.t] = scale
    if tells:
        cute.arch.barrier_arrive(
            barrier_id=NamedBarrier.SCALE + 4 * row.t + row.thread // 32,
            number_of_threads=2 * WARP_SIZE,
        )


@cute.jit
def _exponentials(context, row: Row, scores: cute.Tensor, shift: Float32):
    """P[t], rounded, to tensor memory; tells the MMA warp. Returns the sum of P."""
    p_columns = context.config.tensor_memory.p_columns
    scale = (context.scale_log2, context.scale_log2)
    for first, end in context.config.p_parts:
        for c in cutlass.range_constexpr(first, end, 2):
            pair = (scores[c], scores[c + 1])
            a, b = cute.arch.fma_packed_f32x2(pair, scale, (shift, shift))
            scores[c], scores[c + 1] = a, b
            # NOTES: by the column alone, masked or not, so that every call rounds alike.
            if cutlass.const_expr(c // 2 % POLYNOMIAL_PERIOD in context.config.polynomial):
                exp2_by_polynomial(scores, c)
            else:
                scores[c] = cute.math.exp2(a, fastmath=True)
                scores[c + 1] = cute.math.exp2(b, fastmath=True)
            if cutlass.const_expr(context.config.p_factor != 1):
                # Not a summand of the shift: exponents near 8 have three bits less, and lse them.
                factor = (Float32(context.config.p_factor), Float32(context.config.p_factor))
                pair = (scores[c], scores[c + 1])
                scores[c], scores[c + 1] = cute.arch.mul_packed_f32x2(pair, factor)
        columns = end - first
        rP = cute.make_rmem_tensor(columns, context.dtype)
        convert(cute.make_tensor(scores.iterator + first, cute.make_layout(columns)), rP)
        cells = cute.make_tensor(
            cute.recast_ptr(rP.iterator, dtype=Float32),
            cute.make_layout(columns * p_columns // TILE_N),
        )
        tensor_memory.store(cells, row.probabilities + first * p_columns // TILE_N, row.lane)
        if cutlass.const_expr(end >= P_HEAD):
            tensor_memory.wait_stores()
            tensor_memory.fence_before_sync()
            name = "p_tail" if end == TILE_N else "pv_ready"
            context.barriers[name].arrive_as_warp(row.slot)
    return row_softmax.row_sum(scores)


def with_descales(context, tile: Int32):
    """`context` with the scale of the scores of a tile's head, where heads differ in it."""
    descales = context.descales
    if descales is None:
        return context
    _, head, batch = context.scheduler.decode(tile)
    head_kv = head // context.ratio
    product = descales.mQ[head_kv, batch] * descales.mK[head_kv, batch]
    return replace(context, scale_log2=context.scale_log2 * product)


@cute.jit
def _scale_of(context, old: Float32, stays: Boolean, shift: Float32) -> Float32:
    """What the row's sums and outputs so far are multiplied by.

    For a tile's first block it says nothing: no sum is there yet, and O is overwritten. Where the
    maximum stays it is exactly 1: the exponent would be the rounding of a product.
    """
    scale = cute.math.exp2(fma(old, context.scale_log2, shift), fastmath=True)
    return Float32(1.0) if stays else scale


@cute.jit
def take_block(context, row: Row, edges: cutlass.Constexpr, tells):
    """One block of keys, which `row.visible` says what is seen of.

    `edges`: which of the band's the block may have; or None. `tells`: see `_tell_scale`.
    """
    scale_log2, running = context.scale_log2, row.running
    words = None
    if cutlass.const_expr(edges is Edges.BOUNDS):
        # While the product runs.
        words = bounded.words_of_block(context, row)
    scores = _load_scores(context, row)
    if cutlass.const_expr(context.config.softcap):
        softcap.cap(context, scores)
    if cutlass.const_expr(edges is Edges.BOUNDS):
        mask_row_by_words(scores, words)
    elif cutlass.const_expr(edges is not None):
        begin = row.visible[0] if edges is Edges.BOTH else None
        mask_row_outside(scores, begin, row.visible[1])
    old = running[0]
    block, threshold = row_softmax.block_maximum(scores), context.config.rescale_threshold
    new, stays = row_softmax.advance_maximum(old, block, scale_log2, threshold)
    shift = row_softmax.shift_of(new, scale_log2)
    if cutlass.const_expr(context.config.q_tiles == 1):
        scale = _scale_of(context, old, stays, shift)
        tell(context, row, scale, None)
    elif cutlass.const_expr(context.config.rescale_threshold == 0):
        scale = _scale_of(context, old, stays, shift)
        _tell_scale(context, row, scale, tells)
    else:
        scale = Float32(1.0)
        if cute.arch.vote_any_sync(Boolean(not stays)):
            scale = _scale_of(context, old, stays, shift)
            # A wait on the rare way, so that it stays a branch: the exponential is off the usual
            # way, and the wait below stays behind the row's maximum (benchmarks/NOTES.md).
            _wait_for_product(context, row)
        _tell_scale(context, row, scale, tells)
    running[0] = new
    running[1] = fma(running[1], scale, _exponentials(context, row, scores, shift))


@cute.jit
def look_at(context, row: Row, position: Int32, block: Int32) -> None:
    """`row.visible`, or `row.own`, for `block`; `position` is the row's own."""
    band, key = context.band, block * TILE_N
    if cutlass.const_expr(context.config.bounded):
        row.own.key[0] = key
    else:
        row.visible[0] = max(position + band.lower, 0) - key
        row.visible[1] = min(position + band.upper, band.seqlen_k - 1) - key


def look_on(row: Row, blocks: int) -> None:
    """`row.visible` for so many blocks further down."""
    if row.own is not None:
        row.own.key[0] = row.own.key[0] - blocks * TILE_N
        return
    row.visible[0] = row.visible[0] + blocks * TILE_N
    row.visible[1] = row.visible[1] + blocks * TILE_N
