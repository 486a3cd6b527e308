"""The MMA warp: one thread of it issues every product.

CONTRACT: with tile t the scores of visit t, once its operands and columns are there, for dK and dQ

    S(0), dP(0), S(1)
    for every t:
        sum += dS(t) first(t)    while compute makes P of S(t + 1)
        dP(t + 1)                likewise
        S(t + 2)                 while it makes dS of dP(t + 1)

and for dV, which has two stages of S,

    S(0), S(1)
    for every t:
        sum += P(t) dO(t)        while compute makes P of S(t + 1)
        S(t + 2)

What a product overwrites of an earlier one's operands in tensor memory (`config.TensorMemory`)
is protected by the order of the two: they are of one thread, and a
tcgen05.fence::before_thread_sync between them orders the earlier before the later (PTX ISA
9.7.16.6.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import tcgen05
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward_wide.config import HALF, HALVES, STREAM, TILE
from jax_fa4.kernels.sm100.backward_wide.roles import Gradient, work_of
from jax_fa4.kernels.toolkit.mbarriers import (
    Ring,
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)
from jax_fa4.kernels.toolkit.tensor_memory import fence_after_sync, fence_before_sync


@dataclass(frozen=True)
class Operands:
    """Descriptors of shared memory, and views of tensor memory; factors by halves of depth."""

    own_first: cute.Tensor  # (MMA, 1, MMA_K)
    own_second: cute.Tensor
    first: cute.Tensor  # (MMA, 1, MMA_K, stages)
    first_t: cute.Tensor
    second: cute.Tensor
    second_t: cute.Tensor


@dataclass(frozen=True)
class Progress:
    """How far this warp is with each barrier that it waits for."""

    first: Ring  # as scores take it, ahead of
    first_of_sum: Ring  # as the sum takes it
    second: Ring
    scores: Ring  # stages of S, of dV alone
    factor: Ring  # as the sum takes them
    s_read: cute.Tensor


def _in_tensor_memory(context, mma, shape: tuple[int, int, int], column: int) -> cute.Tensor:
    """Operand A of 16 bits that begins at `column`."""
    layout = blackwell.make_smem_layout_a(mma, shape, context.dtype, 1)
    flat = mma.get_slice(0).make_fragment_A(cute.make_tensor(context.tmem, layout.outer))
    flat = flat[None, None, None, 0]
    base = cute.recast_ptr(context.tmem + column, dtype=flat.dtype)
    return cute.make_tensor(base, flat.layout)


def _make_operands(context) -> Operands:
    shared, columns, mmas = context.shared, context.config.tensor_memory, context.mmas
    d, d_v = context.config.head_dim, context.config.head_dim_v
    if columns.holds_second:
        own = _in_tensor_memory(context, mmas.dscores, (TILE, STREAM, d_v), columns.second)
    else:
        own = mmas.dscores.get_slice(0).make_fragment_A(shared.own)[None, None, None, 0]
    return Operands(
        own_first=_in_tensor_memory(context, mmas.scores, (TILE, STREAM, d), columns.first),
        own_second=own,
        first=mmas.scores.get_slice(0).make_fragment_B(shared.first),
        first_t=mmas.wide.get_slice(0).make_fragment_B(shared.first_t),
        second=mmas.dscores.get_slice(0).make_fragment_B(shared.second),
        second_t=mmas.dv.get_slice(0).make_fragment_B(shared.second_t),
    )


def _accumulator(context, mma, width: int, column) -> cute.Tensor:
    thread = mma.get_slice(0)
    layout = thread.make_fragment_C(thread.partition_shape_C((TILE, width))).layout
    return cute.make_tensor(context.tmem + column, layout)


@cute.jit
def _multiply(tiled_mma, acc, a, b, first: cutlass.Constexpr, accumulate):
    """acc (+)= a b over all of a's depth, which begins at slice `first` of b's."""
    # NOTES: an atom of its own, since setting a field rebinds a value of this region.
    atom = cute.make_mma_atom(tiled_mma.op)
    atom.set(tcgen05.Field.ACCUMULATE, accumulate)
    for kk in cutlass.range_constexpr(cute.size(a, mode=[2])):
        cute.gemm(atom, acc, a[None, None, kk], b[None, None, first + kk], acc)
        atom.set(tcgen05.Field.ACCUMULATE, True)


@cute.jit
def _scores(context, operands, progress, makes_dv: cutlass.Constexpr) -> None:
    """S of the next visit. What it overwrites was read: the caller's wait, and order."""
    barriers, ring, mma = context.barriers, progress.first, context.mmas.scores
    wait_stage(barriers["first_full"], ring)
    fence_before_sync()
    b = operands.first[None, None, None, ring.stage]
    columns = context.config.tensor_memory
    stage = progress.scores.stage
    at = columns.scores + stage * STREAM if makes_dv else columns.scores
    acc = _accumulator(context, mma, STREAM, at)
    _multiply(mma, acc, operands.own_first, b, 0, False)
    if cutlass.const_expr(makes_dv):
        barriers["s_full"].commit(stage)
        barriers["first_empty"].commit(ring.stage)
        advance(progress.scores)
    else:
        barriers["s_full"].commit(0)
    advance(ring)


@cute.jit
def _scores_again(context, operands, progress) -> None:
    """The same over an S that compute has read, for dK and dQ."""
    wait_next(context.barriers["s_read"], progress.s_read, 0)
    fence_after_sync()
    _scores(context, operands, progress, False)


@cute.jit
def _dscores(context, operands, progress) -> None:
    """dP of the next visit. dS, which it overwrites, is in the sum."""
    barriers, ring, mma = context.barriers, progress.second, context.mmas.dscores
    wait_stage(barriers["second_full"], ring)
    fence_before_sync()
    b = operands.second[None, None, None, ring.stage]
    acc = _accumulator(context, mma, STREAM, context.config.tensor_memory.dscores)
    _multiply(mma, acc, operands.own_second, b, 0, False)
    barriers["dp_full"].commit(0)
    barriers["second_empty"].commit(ring.stage)
    advance(ring)


@cute.jit
def _add(context, operands, progress, makes_dv: cutlass.Constexpr, accumulate) -> None:
    """sum += P dO, or dS by the stream of Q or K, of the earliest visit that has not had it."""
    barriers, config, factor = context.barriers, context.config, progress.factor
    mma = context.mmas.dv if makes_dv else context.mmas.wide
    width = config.head_dim_v if makes_dv else config.head_dim
    columns = config.tensor_memory
    if cutlass.const_expr(makes_dv):
        ring, b, empty = progress.second, operands.second_t, "second_empty"
        wait_stage(barriers["second_full"], ring)
        wait_stage(barriers["factor_ready"], factor)
        at = columns.scores + factor.stage * STREAM
    else:
        ring, b, empty = progress.first_of_sum, operands.first_t, "first_empty"
        wait_stage(barriers["factor_ready"], factor)
        at = columns.dscores
    fence_after_sync()
    acc = _accumulator(context, mma, width, columns.sum)
    for half in cutlass.range_constexpr(HALVES):
        a = _in_tensor_memory(context, mma, (TILE, width, HALF), at + half * HALF)
        first = half * cute.size(a, mode=[2])
        block = b[None, None, None, ring.stage]
        _multiply(mma, acc, a, block, first, accumulate if half == 0 else True)
    barriers[empty].commit(ring.stage)
    advance(ring)
    advance(factor)


def _make_progress(config, makes_dv: bool) -> Progress:
    stages = config.second_stages_of_dv if makes_dv else config.second_stages
    return Progress(
        first=make_ring(config.first_stages),
        first_of_sum=make_ring(config.first_stages),
        second=make_ring(stages),
        scores=make_ring(2),
        factor=make_ring(2 if makes_dv else 1),
        s_read=make_counters(1),
    )


@cute.jit
def _run_dscores(context, operands, progress, visits) -> None:
    """dK or dQ."""
    _scores(context, operands, progress, False)
    if cutlass.const_expr(not context.config.tensor_memory.holds_second):
        context.barriers["own_full"].wait(0, 0)
    _dscores(context, operands, progress)
    if visits > 1:
        _scores_again(context, operands, progress)
    for t in cutlass.range(visits, unroll=1):
        _add(context, operands, progress, False, t > 0)
        if t + 1 < visits:
            _dscores(context, operands, progress)
        if t + 2 < visits:
            _scores_again(context, operands, progress)


@cute.jit
def _run_scores(context, operands, progress, visits) -> None:
    """dV."""
    _scores(context, operands, progress, True)
    if visits > 1:
        _scores(context, operands, progress, True)
    for t in cutlass.range(visits, unroll=1):
        _add(context, operands, progress, True, t > 0)
        if t + 2 < visits:
            _scores(context, operands, progress, True)


@cute.jit
def run(context, gradient: cutlass.Constexpr) -> None:
    """See the contract above."""
    barriers, operands = context.barriers, _make_operands(context)
    makes_dv = gradient is Gradient.DV
    progress = _make_progress(context.config, makes_dv)
    visits = work_of(context, gradient).visits
    barriers["own_ready"].wait(0, 0)
    fence_after_sync()
    if cutlass.const_expr(makes_dv):
        _run_scores(context, operands, progress, visits)
    else:
        _run_dscores(context, operands, progress, visits)
    barriers["sum_full"].commit(0)
