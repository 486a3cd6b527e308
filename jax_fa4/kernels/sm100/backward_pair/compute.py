"""A compute warpgroup of a CTA of a pair: thread i owns key i, warpgroup h half of the queries.

CONTRACT: as of a lone CTA (`backward.compute`), but that

* warpgroup h has parts h and h + 2 of a block's four parts of 32 queries;
* it arrives at s_read when it has its scores in registers, so that dQ of the visit before may go
  to their columns;
* it arrives at p_begun when P of the first of its two parts is there;
* dS goes to the shared memory of the CTA that makes dQ of these queries, which is number h of the
  pair: into sdS, or into the tile behind it, from where each warp sends its 32 keys. Both are free
  when dQ of the visit before is over (dq_full), which had read sdS of both CTAs, and for which all
  that left had arrived. The threads have their dS rounded by then, and dK need not wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, min

from jax_fa4.kernels.sm100.backward.config import HALF, TILE, WARP_SIZE
from jax_fa4.kernels.sm100.backward.roles import cuts_something, next_visit
from jax_fa4.kernels.sm100.backward.store import store_gradients
from jax_fa4.kernels.sm100.backward_pair import exchange
from jax_fa4.kernels.sm100.backward_pair.config import PAIR, PART, STATS_STAGES
from jax_fa4.kernels.sm100.backward_pair.roles import work_of
from jax_fa4.kernels.toolkit import swizzled_rows, tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.exponential import exp2_by_polynomial
from jax_fa4.kernels.toolkit.masks import mask_row_outside
from jax_fa4.kernels.toolkit.mbarriers import (
    Ring,
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)

_PARTS = HALF // PART
_STRIDE = 2 * PART  # from a warpgroup's part of a block's queries to its next
# First columns, in a part, of the pairs of exponentials that the CUDA cores compute: S^T of the
# next visit waits for P of this one, and P for the special-function units.
_BY_POLYNOMIAL = (4, 10, 16, 22, 28)
_SENT_BYTES = WARP_SIZE * HALF * 2  # by a warp


@dataclass(frozen=True)
class Row:
    """This thread's key, and how far its warp is; registers where a tensor."""

    half: Int32
    thread: Int32  # of the warpgroup: the key in its block, the lane of tensor memory
    lane: Int32  # the warp's first
    scores: cute.Pointer  # its first part of S^T in tensor memory
    dscores: cute.Pointer  # of dP^T
    stats: Ring
    s_full: cute.Tensor
    dp_full: cute.Tensor
    dq_full: cute.Tensor


def _make_row(context, half: Int32) -> Row:
    thread = cute.arch.thread_idx()[0] % TILE
    columns = context.config.tensor_memory
    return Row(
        half=half,
        thread=thread,
        lane=WARP_SIZE * cute.arch.make_warp_uniform(thread // WARP_SIZE),
        scores=context.tmem + columns.scores + half * PART,
        dscores=context.tmem + columns.dscores + half * PART,
        stats=make_ring(STATS_STAGES),
        s_full=make_counters(1),
        dp_full=make_counters(1),
        dq_full=make_counters(1),
    )


def _statistics(context, row: Row, which: int, part: int) -> cute.Tensor:
    """lse_log2 (0) or delta (1) of a part's queries, in registers."""
    base = context.shared.sStats.iterator
    offset = row.stats.stage * (2 * TILE) + which * TILE + row.half * PART + part * _STRIDE
    source = base + cute.assume(offset, divby=4)
    values = cute.make_rmem_tensor(PART, Float32)
    for c in range(0, PART, 4):
        target = cute.make_tensor(values.iterator + c, cute.make_layout(4))
        cute.autovec_copy(cute.make_tensor(source + c, cute.make_layout(4)), target)
    return values


def _of_part(tensor: cute.Tensor, part: int) -> cute.Tensor:
    return cute.make_tensor(tensor.iterator + part * PART, cute.make_layout(PART))


def _cells(rounded: cute.Tensor) -> cute.Tensor:
    """Elements of 16 bits as cells of tensor memory."""
    count = cute.size(rounded) // 2
    return cute.make_tensor(
        cute.recast_ptr(rounded.iterator, dtype=Float32), cute.make_layout(count)
    )


@cute.jit
def _mask(context, row: Row, scores: cute.Tensor, work, block: Int32) -> None:
    """Hide the queries that do not see this thread's key."""
    band = context.band
    if cuts_something(band, work.key, block * TILE):
        key = work.key + row.thread
        query = block * TILE + row.half * PART
        end = min(key, band.seqlen_k - 1) - band.lower - query
        # A key past the end has scores of 0, whose exponential may be infinite.
        end = end if key < band.seqlen_k else Int32(-1)
        begin = key - band.upper - query
        for part in cutlass.range_constexpr(_PARTS):
            before = part * _STRIDE
            mask_row_outside(_of_part(scores, part), begin - before, end - before)


@cute.jit
def _probabilities(context, row: Row, work, block: Int32) -> cute.Tensor:
    """This thread's half row of P^T, in registers, and rounded in tensor memory."""
    barriers = context.barriers
    wait_stage(barriers["stats_full"], row.stats)
    # A part ahead of their use: reads of shared memory are slow, all lanes' bytes being the same.
    lse = [_statistics(context, row, 0, 0)]
    wait_next(barriers["s_full"], row.s_full, 0)
    tensor_memory.fence_after_sync()
    scores = cute.make_rmem_tensor(HALF, Float32)
    for part in cutlass.range_constexpr(_PARTS):
        tensor_memory.load(row.scores + part * _STRIDE, _of_part(scores, part), row.lane)
    tensor_memory.wait_loads()
    tensor_memory.fence_before_sync()
    barriers["s_read"].arrive_as_warp(0)
    _mask(context, row, scores, work, block)
    scale = (-context.scale_log2, -context.scale_log2)
    for part in cutlass.range_constexpr(_PARTS):
        if cutlass.const_expr(part > 0):
            lse.append(_statistics(context, row, 0, part))
        first = part * PART
        for c in cutlass.range_constexpr(0, PART, 2):
            pair = (scores[first + c], scores[first + c + 1])
            # Of the other sign, since there is no packed negation of lse.
            a, b = cute.arch.fma_packed_f32x2(pair, scale, (lse[part][c], lse[part][c + 1]))
            if cutlass.const_expr(c in _BY_POLYNOMIAL):
                scores[first + c], scores[first + c + 1] = -a, -b
                exp2_by_polynomial(scores, first + c)
            else:
                scores[first + c] = cute.math.exp2(-a, fastmath=True)
                scores[first + c + 1] = cute.math.exp2(-b, fastmath=True)
        rounded = cute.make_rmem_tensor(PART, context.dtype)
        convert(_of_part(scores, part), rounded)
        tensor_memory.store(_cells(rounded), row.scores + first // 2, row.lane)
        tensor_memory.wait_stores()
        tensor_memory.fence_before_sync()
        barriers[("p_begun", "p_ready")[part]].arrive_as_warp(0)
    return scores


@cute.jit
def _dscores(context, row: Row, probabilities: cute.Tensor) -> cute.Tensor:
    """This thread's half row of dS^T, rounded, in registers and in tensor memory."""
    barriers = context.barriers
    wait_next(barriers["dp_full"], row.dp_full, 0)
    tensor_memory.fence_after_sync()
    rounded = cute.make_rmem_tensor(HALF, context.dtype)
    for part in cutlass.range_constexpr(_PARTS):
        values = cute.make_rmem_tensor(PART, Float32)
        tensor_memory.load(row.dscores + part * _STRIDE, values, row.lane)
        delta = _statistics(context, row, 1, part)
        tensor_memory.wait_loads()
        first = part * PART
        for c in cutlass.range_constexpr(0, PART, 2):
            at = first + c
            p = (probabilities[at], probabilities[at + 1])
            dp = cute.arch.sub_packed_f32x2((values[c], values[c + 1]), (delta[c], delta[c + 1]))
            values[c], values[c + 1] = cute.arch.mul_packed_f32x2(p, dp)
        convert(values, _of_part(rounded, part))
        tensor_memory.store(_cells(_of_part(rounded, part)), row.dscores + first // 2, row.lane)
    tensor_memory.wait_stores()
    tensor_memory.fence_before_sync()
    barriers["ds_ready"].arrive_as_warp(0)
    return rounded


@cute.jit
def _hand_over(context, row: Row, rounded: cute.Tensor) -> None:
    """The half row of dS to where dQ of its queries is made."""
    barriers, shared = context.barriers, context.shared
    own, leaving = context.rank * (TILE * HALF), Int32(PAIR * TILE * HALF)
    stays = row.half == context.rank
    # On a new barrier this returns at once.
    wait_next(barriers["dq_full"], row.dq_full, 0, producer=True)
    tile = shared.dscores + cute.assume(own if stays else leaving, divby=TILE * HALF)
    swizzled_rows.store_columns(rounded, tile, TILE, row.thread, 0, HALF)
    # For the product or the copy that reads it, and for the next bulk copy over the statistics.
    cute.arch.fence_view_async_shared()
    cute.arch.sync_warp()
    with cute.arch.elect_one():
        if stays:
            # As many bytes come from the same warp of the other CTA.
            barriers["ds_full"].arrive_with_bytes(0, _SENT_BYTES)
        else:
            first = row.lane * HALF
            exchange.send(
                shared.dscores + own + first,
                shared.dscores + leaving + first,
                _SENT_BYTES,
                barriers["ds_full"].at(0),
                1 - context.rank,
            )
    barriers["stats_empty"].arrive_as_warp(row.stats.stage)
    advance(row.stats)


@cute.jit
def run(context, half: Int32) -> None:
    """As compute `half`; see the contract above."""
    row, work = _make_row(context, half), work_of(context)
    head, block = work.head_kv * context.ratio, work.first
    for _ in cutlass.range(work.visits, unroll=1):
        probabilities = _probabilities(context, row, work, block)
        rounded = _dscores(context, row, probabilities)
        _hand_over(context, row, rounded)
        head, block = next_visit(work, head, block)
    store_gradients(context, work, row.half, row.thread, row.lane)
