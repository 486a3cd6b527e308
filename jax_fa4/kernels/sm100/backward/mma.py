"""The MMA warp: one thread of it issues every product.

CONTRACT: with tile t the square of scores of visit t, once its operands and columns are there

    S^T(0) = K Q^T, dP^T(0) = V dO^T, dV += P^T dO (0)
    for every t but the last:
        S^T(t + 1)       while compute makes dS of dP(t)
        dK += dS^T Q (t)
        dQ(t) = dS K     both while it makes P of S(t + 1)
        dP^T(t + 1)      which waits for reduce to take dQ(t) out, where they share columns
        dV(t + 1)
    dK, dQ of the last

so that each wait for another role has a product or two before it that do not depend on it. Where
dQ has columns of its own, dP^T(t + 1) comes before dQ(t), and compute need not wait for it.
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

from jax_fa4.kernels.sm100.backward.config import HALF, HALVES, Q_STAGES, TILE
from jax_fa4.kernels.sm100.backward.roles import work_of
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
    """Descriptors of shared memory, and views of tensor memory; P and dS by halves of depth."""

    tSrK: cute.Tensor  # (MMA, 1, MMA_K, stages), as all of shared memory
    tSrQ: cute.Tensor
    tSrV: cute.Tensor
    tSrdO: cute.Tensor
    tVrdO: cute.Tensor
    tKrQ: cute.Tensor
    tQrdS: cute.Tensor
    tQrK: cute.Tensor
    tVrP: tuple[cute.Tensor, ...]  # (MMA, 1, MMA_K / 2)
    tKrdS: tuple[cute.Tensor, ...]
    tStS: cute.Tensor
    tPtdP: cute.Tensor
    tVtdV: cute.Tensor
    tKtdK: cute.Tensor
    tQtdQ: cute.Tensor


@dataclass(frozen=True)
class Progress:
    """How far this warp is with each barrier that it waits for."""

    q_score: Ring  # Q as S^T takes it, a visit ahead of
    q_gradient: Ring  # Q as dK takes it
    do: Ring
    p_ready: cute.Tensor
    ds_ready: cute.Tensor
    dq_empty: cute.Tensor


def _halves(context, mma, width: int, column: int) -> tuple[cute.Tensor, ...]:
    """Operand A in tensor memory, its halves in the first columns of each half of scores."""
    thread = mma.get_slice(0)
    layout = blackwell.make_smem_layout_a(mma, (TILE, width, HALF), context.dtype, 1)
    flat = thread.make_fragment_A(cute.make_tensor(context.tmem, layout.outer))
    flat = flat[None, None, None, 0]
    bases = [
        cute.recast_ptr(context.tmem + column + half * HALF, dtype=flat.dtype)
        for half in range(HALVES)
    ]
    return tuple(cute.make_tensor(base, flat.layout) for base in bases)


def _make_operands(context) -> Operands:
    shared, columns, mmas = context.shared, context.config.tensor_memory, context.mmas
    scores, dv, dk, dq = (mma.get_slice(0) for mma in (mmas.scores, mmas.dv, mmas.dk, mmas.dq))

    def accumulator(thread, width, column):
        layout = thread.make_fragment_C(thread.partition_shape_C((TILE, width))).layout
        return cute.make_tensor(context.tmem + column, layout)

    d, d_v = context.config.head_dim, context.config.head_dim_v
    return Operands(
        tSrK=scores.make_fragment_A(shared.sK),
        tSrQ=scores.make_fragment_B(shared.sQ),
        tSrV=scores.make_fragment_A(shared.sV),
        tSrdO=scores.make_fragment_B(shared.sdO),
        tVrdO=dv.make_fragment_B(shared.sdOt),
        tKrQ=dk.make_fragment_B(shared.sQt),
        tQrdS=dq.make_fragment_A(shared.sdS),
        tQrK=dq.make_fragment_B(shared.sKt),
        tVrP=_halves(context, mmas.dv, d_v, columns.scores),
        tKrdS=_halves(context, mmas.dk, d, columns.dscores),
        tStS=accumulator(scores, TILE, columns.scores),
        tPtdP=accumulator(scores, TILE, columns.dscores),
        tVtdV=accumulator(dv, d_v, columns.dv),
        tKtdK=accumulator(dk, d, columns.dk),
        tQtdQ=accumulator(dq, d, columns.dq),
    )


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
def _scores(context, operands, progress) -> None:
    """S^T = K Q^T of the next visit. P^T of this one, which it overwrites, is in dV."""
    barriers, ring = context.barriers, progress.q_score
    wait_stage(barriers["q_full"], ring)
    fence_before_sync()
    a = operands.tSrK[None, None, None, 0]
    b = operands.tSrQ[None, None, None, ring.stage]
    _multiply(context.mmas.scores, operands.tStS, a, b, 0, False)
    barriers["s_full"].commit(0)
    advance(ring)


@cute.jit
def _dscores(context, operands, progress, stage) -> None:
    """dP^T = V dO^T of the visit whose dO is in `stage`."""
    barriers = context.barriers
    fence_before_sync()
    a = operands.tSrV[None, None, None, 0]
    b = operands.tSrdO[None, None, None, stage]
    _multiply(context.mmas.scores, operands.tPtdP, a, b, 0, False)
    barriers["dp_full"].commit(0)


@cute.jit
def _dvalues(context, operands, progress, stage, accumulate) -> None:
    """dV += P^T dO."""
    wait_next(context.barriers["p_ready"], progress.p_ready, 0)
    fence_after_sync()
    b = operands.tVrdO[None, None, None, stage]
    for half in cutlass.range_constexpr(HALVES):
        a = operands.tVrP[half]
        first = half * cute.size(a, mode=[2])
        _multiply(context.mmas.dv, operands.tVtdV, a, b, first, accumulate if half == 0 else True)


@cute.jit
def _dkeys(context, operands, progress, accumulate) -> None:
    """dK += dS^T Q of the earliest visit that has not had it."""
    barriers, ring = context.barriers, progress.q_gradient
    wait_next(barriers["ds_ready"], progress.ds_ready, 0)
    fence_after_sync()
    b = operands.tKrQ[None, None, None, ring.stage]
    for half in cutlass.range_constexpr(HALVES):
        a = operands.tKrdS[half]
        first = half * cute.size(a, mode=[2])
        _multiply(context.mmas.dk, operands.tKtdK, a, b, first, accumulate if half == 0 else True)
    barriers["q_empty"].commit(ring.stage)
    advance(ring)


@cute.jit
def _dqueries(context, operands, progress) -> None:
    """dQ = dS K of the same visit."""
    barriers = context.barriers
    if cutlass.const_expr(context.config.tensor_memory.dq_apart):
        wait_next(barriers["dq_empty"], progress.dq_empty, 0, producer=True)
        fence_after_sync()
    else:
        fence_before_sync()
    a = operands.tQrdS[None, None, None, 0]
    _multiply(context.mmas.dq, operands.tQtdQ, a, operands.tQrK[None, None, None, 0], 0, False)
    barriers["dq_full"].commit(0)


@cute.jit
def run(context) -> None:
    """See the contract above."""
    barriers, work, operands = context.barriers, work_of(context), _make_operands(context)
    progress = Progress(
        q_score=make_ring(Q_STAGES),
        q_gradient=make_ring(Q_STAGES),
        do=make_ring(context.config.do_stages),
        p_ready=make_counters(1),
        ds_ready=make_counters(1),
        dq_empty=make_counters(1),
    )
    do_ring = progress.do
    barriers["k_full"].wait(0, 0)
    _scores(context, operands, progress)
    barriers["v_full"].wait(0, 0)
    wait_stage(barriers["do_full"], do_ring)
    _dscores(context, operands, progress, do_ring.stage)
    _dvalues(context, operands, progress, do_ring.stage, False)
    barriers["do_empty"].commit(do_ring.stage)
    advance(do_ring)
    for t in cutlass.range(work.visits - 1, unroll=1):
        _scores(context, operands, progress)
        _dkeys(context, operands, progress, t > 0)
        if cutlass.const_expr(not context.config.tensor_memory.dq_apart):
            _dqueries(context, operands, progress)
            wait_next(barriers["dq_empty"], progress.dq_empty, 0)
            fence_after_sync()
        wait_stage(barriers["do_full"], do_ring)
        _dscores(context, operands, progress, do_ring.stage)
        if cutlass.const_expr(context.config.tensor_memory.dq_apart):
            _dqueries(context, operands, progress)
        _dvalues(context, operands, progress, do_ring.stage, True)
        barriers["do_empty"].commit(do_ring.stage)
        advance(do_ring)
    barriers["dv_full"].commit(0)
    _dkeys(context, operands, progress, work.visits > 1)
    _dqueries(context, operands, progress)
    barriers["dk_full"].commit(0)
