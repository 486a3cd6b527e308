"""The MMA warp: one thread of it issues every product.

CONTRACT: with S(t), dP(t), P(t), dS(t) those of visit t, and first(t), second(t) its blocks of the
stream, once operands and columns are there: for dK or dQ alone

    S(0), dP(0), S(1)
    for every t:
        dK or dQ += dS(t) first(t)    while compute makes P of S(t + 1)
        dP(t + 1)                     likewise
        S(t + 2)                      while it makes dS of dP(t + 1)

for dV alone, which has two stages of S,

    S(0), S(1)
    for every t:
        dV += P(t) second(t)          while compute makes P of S(t + 1)
        S(t + 2)

and for dK and dV

    S(0), dP(0)
    for every t:
        dV += P(t) second(t)          while compute makes dS of dP(t)
        S(t + 1)                      likewise
        dK += dS(t) first(t)          while it makes P of S(t + 1)
        dP(t + 1)                     likewise

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

from jax_fa4.kernels.sm100.backward_wide.config import HALF, HALVES, STREAM, TILE, Gradient
from jax_fa4.kernels.sm100.backward_wide.roles import work_of
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
    """Descriptors of shared memory, and views of tensor memory."""

    own_first: cute.Tensor  # (MMA, 1, MMA_K)
    own_second: cute.Tensor | None
    first: cute.Tensor  # (MMA, 1, MMA_K, stages)
    first_t: cute.Tensor
    second: cute.Tensor
    second_t: cute.Tensor


@dataclass(frozen=True)
class Progress:
    """How far this warp is with each barrier that it waits for. A block of the stream that two
    products take has two places: as it comes, and as it goes."""

    first: Ring
    first_t: Ring
    second: Ring
    second_t: Ring
    scores: Ring  # stages of S
    p_ready: Ring
    s_read: cute.Tensor
    ds_ready: cute.Tensor


def _in_tensor_memory(context, mma, shape: tuple[int, int, int], column) -> cute.Tensor:
    """Operand A of 16 bits that begins at `column`."""
    layout = blackwell.make_smem_layout_a(mma, shape, context.dtype, 1)
    flat = mma.get_slice(0).make_fragment_A(cute.make_tensor(context.tmem, layout.outer))
    flat = flat[None, None, None, 0]
    base = cute.recast_ptr(context.tmem + column, dtype=flat.dtype)
    return cute.make_tensor(base, flat.layout)


def _mma_of(context, held: bool) -> cute.TiledMma:
    """That of scores, by where own rows lie."""
    return context.mmas.from_tmem if held else context.mmas.from_smem


def _own(context, held: bool, width: int, column: int, shared: cute.Tensor) -> cute.Tensor:
    """Own rows as operand A."""
    mma = _mma_of(context, held)
    if held:
        return _in_tensor_memory(context, mma, (TILE, STREAM, width), column)
    return mma.get_slice(0).make_fragment_A(shared)[None, None, None, 0]


def _make_operands(context, gradient: Gradient) -> Operands:
    shared, mmas, config = context.shared, context.mmas, context.config
    columns = config.tensor_memory(gradient)
    d, d_v = config.head_dim, config.head_dim_v
    scores = mmas.from_smem.get_slice(0)
    second = None
    if gradient.takes_dp:
        second = _own(context, columns.holds_second, d_v, columns.second, shared.own_second)
    return Operands(
        own_first=_own(context, columns.holds_first, d, columns.first, shared.own_first),
        own_second=second,
        first=scores.make_fragment_B(shared.first),
        first_t=mmas.wide.get_slice(0).make_fragment_B(shared.first_t),
        second=scores.make_fragment_B(shared.second),
        second_t=mmas.dv.get_slice(0).make_fragment_B(shared.second_t),
    )


def _make_progress(config, gradient: Gradient) -> Progress:
    firsts, seconds = config.firsts(gradient), config.seconds(gradient)
    stages = 2 if gradient is Gradient.DV else 1
    return Progress(
        first=make_ring(firsts),
        first_t=make_ring(firsts),
        second=make_ring(seconds),
        second_t=make_ring(seconds),
        scores=make_ring(stages),
        p_ready=make_ring(stages),
        s_read=make_counters(1),
        ds_ready=make_counters(1),
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
def _scores(context, operands, progress, gradient: cutlass.Constexpr) -> None:
    """S of the next visit. What it overwrites was read: the caller's wait, and order."""
    barriers, ring = context.barriers, progress.first
    columns = context.config.tensor_memory(gradient)
    mma, stage = _mma_of(context, columns.holds_first), progress.scores.stage
    wait_stage(barriers["first_full"], ring)
    fence_before_sync()
    at = columns.scores + stage * STREAM if gradient is Gradient.DV else columns.scores
    acc = _accumulator(context, mma, STREAM, at)
    _multiply(mma, acc, operands.own_first, operands.first[None, None, None, ring.stage], 0, False)
    barriers["s_full"].commit(stage)
    if cutlass.const_expr(gradient is Gradient.DV):
        barriers["first_empty"].commit(ring.stage)
    advance(progress.scores)
    advance(ring)


@cute.jit
def _scores_again(context, operands, progress, gradient: cutlass.Constexpr) -> None:
    """The same over an S that compute has read, and left no P in."""
    wait_next(context.barriers["s_read"], progress.s_read, 0)
    fence_after_sync()
    _scores(context, operands, progress, gradient)


@cute.jit
def _dscores(context, operands, progress, gradient: cutlass.Constexpr) -> None:
    """dP of the next visit. dS, which it overwrites, was a factor."""
    barriers, ring = context.barriers, progress.second
    columns = context.config.tensor_memory(gradient)
    mma = _mma_of(context, columns.holds_second)
    wait_stage(barriers["second_full"], ring)
    fence_before_sync()
    acc = _accumulator(context, mma, STREAM, columns.dscores)
    block = operands.second[None, None, None, ring.stage]
    _multiply(mma, acc, operands.own_second, block, 0, False)
    barriers["dp_full"].commit(0)
    if cutlass.const_expr(not gradient.takes_p):
        barriers["second_empty"].commit(ring.stage)
    advance(ring)


@cute.jit
def _add(context, mma, width: cutlass.Constexpr, columns, block, accumulate) -> None:
    """The sum at the first of `columns` += the factor at the second, by `block`."""
    acc = _accumulator(context, mma, width, columns[0])
    for half in cutlass.range_constexpr(HALVES):
        at = columns[1] + half * HALF
        a = _in_tensor_memory(context, mma, (TILE, width, HALF), at)
        first = half * cute.size(a, mode=[2])
        _multiply(mma, acc, a, block, first, accumulate if half == 0 else True)


@cute.jit
def _add_p(context, operands, progress, gradient: cutlass.Constexpr, accumulate) -> None:
    """dV += P dO of the earliest visit that has not had it."""
    barriers, config, ring = context.barriers, context.config, progress.second_t
    columns, stage = config.tensor_memory(gradient), progress.p_ready.stage
    if cutlass.const_expr(gradient is Gradient.DV):
        wait_stage(barriers["second_full"], ring)
    wait_stage(barriers["p_ready"], progress.p_ready)
    fence_after_sync()
    factor = columns.scores + stage * STREAM if gradient is Gradient.DV else columns.scores
    block = operands.second_t[None, None, None, ring.stage]
    _add(context, context.mmas.dv, config.head_dim_v, (columns.dv, factor), block, accumulate)
    barriers["second_empty"].commit(ring.stage)
    advance(ring)
    advance(progress.p_ready)


@cute.jit
def _add_ds(context, operands, progress, gradient: cutlass.Constexpr, accumulate) -> None:
    """dK += dS Q, or dQ += dS K, likewise."""
    barriers, config, ring = context.barriers, context.config, progress.first_t
    columns = config.tensor_memory(gradient)
    wait_next(barriers["ds_ready"], progress.ds_ready, 0)
    fence_after_sync()
    at = (columns.wide, columns.dscores)
    block = operands.first_t[None, None, None, ring.stage]
    _add(context, context.mmas.wide, config.head_dim, at, block, accumulate)
    barriers["first_empty"].commit(ring.stage)
    advance(ring)


@cute.jit
def _run_of_ds(context, operands, progress, gradient: cutlass.Constexpr, visits) -> None:
    """dK or dQ."""
    _scores(context, operands, progress, gradient)
    if cutlass.const_expr(context.config.shares_own(gradient)):
        context.barriers["own_full"].wait(0, 0)
    _dscores(context, operands, progress, gradient)
    if visits > 1:
        _scores_again(context, operands, progress, gradient)
    for t in cutlass.range(visits, unroll=1):
        _add_ds(context, operands, progress, gradient, t > 0)
        if t + 1 < visits:
            _dscores(context, operands, progress, gradient)
        if t + 2 < visits:
            _scores_again(context, operands, progress, gradient)


@cute.jit
def _run_of_p(context, operands, progress, gradient: cutlass.Constexpr, visits) -> None:
    """dV."""
    _scores(context, operands, progress, gradient)
    if visits > 1:
        _scores(context, operands, progress, gradient)
    for t in cutlass.range(visits, unroll=1):
        _add_p(context, operands, progress, gradient, t > 0)
        if t + 2 < visits:
            _scores(context, operands, progress, gradient)


@cute.jit
def _run_of_both(context, operands, progress, gradient: cutlass.Constexpr, visits) -> None:
    """dK and dV."""
    context.barriers["own_full"].wait(0, 0)
    _scores(context, operands, progress, gradient)
    _dscores(context, operands, progress, gradient)
    for t in cutlass.range(visits, unroll=1):
        _add_p(context, operands, progress, gradient, t > 0)
        if t + 1 < visits:
            _scores(context, operands, progress, gradient)
        _add_ds(context, operands, progress, gradient, t > 0)
        if t + 1 < visits:
            _dscores(context, operands, progress, gradient)


@cute.jit
def run(context, gradient: cutlass.Constexpr) -> None:
    """See the contract above."""
    barriers, operands = context.barriers, _make_operands(context, gradient)
    progress = _make_progress(context.config, gradient)
    visits = work_of(context, gradient).visits
    barriers["own_ready"].wait(0, 0)
    fence_after_sync()
    if cutlass.const_expr(gradient is Gradient.DV):
        _run_of_p(context, operands, progress, gradient, visits)
    elif cutlass.const_expr(gradient is Gradient.DK_DV):
        _run_of_both(context, operands, progress, gradient, visits)
    else:
        _run_of_ds(context, operands, progress, gradient, visits)
    barriers["sum_full"].commit(0)
