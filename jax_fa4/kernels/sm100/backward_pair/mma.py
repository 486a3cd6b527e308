"""The MMA warps of a pair: the leader's issues every product; the other's tells it of its dS.

CONTRACT: with tile t the 256 x 128 square of scores of visit t, once its operands and columns are
there

    S^T(0) = K Q^T, dP^T(0) = V dO^T, dV += P^T dO (0)
    for every t but the last:
        S^T(t + 1)       while compute makes dS of dP(t)
        dK += dS^T Q (t)
        dP^T(t + 1)      both while it makes P of S(t + 1), and dS goes from CTA to CTA
        dQ(t) = dS K
        dV(t + 1)        while reduce takes dQ(t) out, whose columns S(t + 2) needs
    dK, dQ of the last

so that each wait for another role has a product or two before it that do not depend on it.
What a product overwrites of an earlier one's operands in tensor memory (`config.TensorMemory`) is
protected as in a lone CTA (`backward.mma`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import tcgen05
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward.config import TILE
from jax_fa4.kernels.sm100.backward_pair import exchange
from jax_fa4.kernels.sm100.backward_pair.config import PAIR_KEYS
from jax_fa4.kernels.sm100.backward_pair.roles import work_of
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next
from jax_fa4.kernels.toolkit.tensor_memory import fence_after_sync, fence_before_sync

_WAITS = (
    *("q_full", "qt_full", "do_full", "dot_full"),
    *("s_read", "p_begun", "p_ready", "ds_ready", "ds_full", "ds_of_peer", "dq_empty"),
)
# P^T and dS^T have the queries by parts of 32 (`config.TensorMemory`): parts 0 and 2, then 1 and 3.
# So slice n of 16 of them is slice _SLICES[n] of the block.
_SLICES = (0, 1, 4, 5, 2, 3, 6, 7)
_FIRST_PARTS = (0, 1, 4, 5)  # slices of P^T, of parts 0 and 1
_LAST_PARTS = (2, 3, 6, 7)


@dataclass(frozen=True)
class Operands:
    """Descriptors of shared memory, and views of tensor memory, of this CTA's part."""

    tSrK: cute.Tensor  # (MMA, 1, MMA_K), as all of them
    tSrQ: cute.Tensor
    tSrV: cute.Tensor
    tSrdO: cute.Tensor
    tVrdO: cute.Tensor
    tKrQ: cute.Tensor
    tQrdS: cute.Tensor
    tQrK: cute.Tensor
    tVrP: cute.Tensor
    tKrdS: cute.Tensor
    tStS: cute.Tensor
    tPtdP: cute.Tensor
    tVtdV: cute.Tensor
    tKtdK: cute.Tensor
    tQtdQ: cute.Tensor


def _make_operands(context) -> Operands:
    shared, columns, mmas = context.shared, context.config.tensor_memory, context.mmas
    scores, dv, dk, dq = (mma.get_slice(0) for mma in (mmas.scores, mmas.dv, mmas.dk, mmas.dq))
    d, d_v = context.config.head_dim, context.config.head_dim_v

    def accumulator(thread, rows, width, column):
        layout = thread.make_fragment_C(thread.partition_shape_C((rows, width))).layout
        return cute.make_tensor(context.tmem + column, layout)

    def in_tensor_memory(mma, thread, width, column):
        """Operand A: a row of 128 queries, of 16 bits, from `column` on."""
        layout = blackwell.make_smem_layout_a(mma, (PAIR_KEYS, width, TILE), context.dtype, 1)
        tile = thread.make_fragment_A(cute.make_tensor(context.tmem, layout.outer))
        tile = tile[None, None, None, 0]
        base = cute.recast_ptr(context.tmem + column, dtype=tile.dtype)
        return cute.make_tensor(base, tile.layout)

    def only_stage(fragment):
        return fragment[None, None, None, 0]

    return Operands(
        tSrK=only_stage(scores.make_fragment_A(shared.sK)),
        tSrQ=only_stage(scores.make_fragment_B(shared.sQ)),
        tSrV=only_stage(scores.make_fragment_A(shared.sV)),
        tSrdO=only_stage(scores.make_fragment_B(shared.sdO)),
        tVrdO=only_stage(dv.make_fragment_B(shared.sdOt)),
        tKrQ=only_stage(dk.make_fragment_B(shared.sQt)),
        tQrdS=only_stage(dq.make_fragment_A(shared.sdS)),
        tQrK=only_stage(dq.make_fragment_B(shared.sKt)),
        tVrP=in_tensor_memory(mmas.dv, dv, d_v, columns.scores),
        tKrdS=in_tensor_memory(mmas.dk, dk, d, columns.dscores),
        tStS=accumulator(scores, PAIR_KEYS, TILE, columns.scores),
        tPtdP=accumulator(scores, PAIR_KEYS, TILE, columns.dscores),
        tVtdV=accumulator(dv, PAIR_KEYS, d_v, columns.dv),
        tKtdK=accumulator(dk, PAIR_KEYS, d, columns.dk),
        tQtdQ=accumulator(dq, TILE, d, columns.dq),
    )


@cute.jit
def _multiply(tiled_mma, acc, a, b, slices: cutlass.Constexpr, accumulate):
    """acc (+)= a b over the slices of depth that pairs (of a, of b) name."""
    # NOTES: an atom of its own, since setting a field rebinds a value of this region.
    atom = cute.make_mma_atom(tiled_mma.op)
    atom.set(tcgen05.Field.ACCUMULATE, accumulate)
    for of_a, of_b in slices:
        cute.gemm(atom, acc, a[None, None, of_a], b[None, None, of_b], acc)
        atom.set(tcgen05.Field.ACCUMULATE, True)


def _whole(a):
    """All slices of depth, in order."""
    return tuple((n, n) for n in range(cute.size(a, mode=[2])))


def _by_parts(*of_a: int):
    """Slices of P^T or dS^T with those of the block's queries that they are."""
    return tuple((n, _SLICES[n]) for n in of_a)


def _await(context, waits, *names: str) -> None:
    """Wait for the next phase of each barrier."""
    for name in names:
        wait_next(context.barriers[name], waits[name], 0, producer=name == "dq_empty")


@cute.jit
def _scores(context, operands, waits) -> None:
    """S^T = K Q^T of the next visit. P^T of this one, which it overwrites, is in dV."""
    _await(context, waits, "q_full")
    fence_before_sync()
    a = operands.tSrK
    _multiply(context.mmas.scores, operands.tStS, a, operands.tSrQ, _whole(a), False)
    context.barriers["s_full"].commit(0)
    context.barriers["q_empty"].commit(0)


@cute.jit
def _dscores(context, operands, waits) -> None:
    """dP^T = V dO^T of the next visit."""
    _await(context, waits, "do_full")
    fence_before_sync()
    a = operands.tSrV
    _multiply(context.mmas.scores, operands.tPtdP, a, operands.tSrdO, _whole(a), False)
    context.barriers["dp_full"].commit(0)
    context.barriers["do_empty"].commit(0)


@cute.jit
def _dvalues(context, operands, waits, accumulate) -> None:
    """dV += P^T dO of the same visit, half of the queries as soon as their P is there."""
    mma, acc, a, b = context.mmas.dv, operands.tVtdV, operands.tVrP, operands.tVrdO
    _await(context, waits, "dot_full", "p_begun")
    fence_after_sync()
    _multiply(mma, acc, a, b, _by_parts(*_FIRST_PARTS), accumulate)
    _await(context, waits, "p_ready")
    fence_after_sync()
    _multiply(mma, acc, a, b, _by_parts(*_LAST_PARTS), True)
    context.barriers["dot_empty"].commit(0)


@cute.jit
def _dkeys(context, operands, waits, accumulate) -> None:
    """dK += dS^T Q of the earliest visit that has not had it."""
    _await(context, waits, "qt_full", "ds_ready")
    fence_after_sync()
    _multiply(
        context.mmas.dk,
        operands.tKtdK,
        operands.tKrdS,
        operands.tKrQ,
        _by_parts(*range(8)),
        accumulate,
    )
    context.barriers["qt_empty"].commit(0)


@cute.jit
def _dqueries(context, operands, waits) -> None:
    """dQ = dS K of that visit, once both CTAs have their queries' dS of all keys."""
    _await(context, waits, "ds_full", "ds_of_peer")
    fence_before_sync()
    a = operands.tQrdS
    _multiply(context.mmas.dq, operands.tQtdQ, a, operands.tQrK, _whole(a), False)
    context.barriers["dq_full"].commit(0)


@cute.jit
def run(context) -> None:
    """As the leader's; see the contract above."""
    barriers, work, operands = context.barriers, work_of(context), _make_operands(context)
    waits = {name: make_counters(1) for name in _WAITS}
    barriers["k_full"].wait(0, 0)
    _scores(context, operands, waits)
    barriers["v_full"].wait(0, 0)
    _dscores(context, operands, waits)
    _await(context, waits, "s_read")
    _dvalues(context, operands, waits, False)
    barriers["kt_full"].wait(0, 0)
    for t in cutlass.range(work.visits - 1, unroll=1):
        _await(context, waits, "dq_empty")  # of the visit before t
        fence_after_sync()
        _scores(context, operands, waits)
        _dkeys(context, operands, waits, t > 0)
        _dscores(context, operands, waits)
        _await(context, waits, "s_read")
        fence_after_sync()
        _dqueries(context, operands, waits)
        _dvalues(context, operands, waits, True)
    barriers["dv_full"].commit(0)
    _dkeys(context, operands, waits, work.visits > 1)
    _await(context, waits, "dq_empty")
    fence_after_sync()
    _dqueries(context, operands, waits)
    barriers["dk_full"].commit(0)


@cute.jit
def relay(context) -> None:
    """As the other's: tell the leader of every visit's dS that all of it is in this CTA."""
    work, uses = work_of(context), make_counters(1)
    for _ in cutlass.range(work.visits, unroll=1):
        wait_next(context.barriers["ds_full"], uses, 0)
        with cute.arch.elect_one():
            exchange.tell_leader(context.barriers["ds_of_peer"].at(0))
