"""A consumer: one warpgroup that owns 64 keys, their dK and dV.

Scores are transposed, S^T = K Q^T, keys by queries: then P^T and dS^T are, in the registers
in which they come up, the operands A of dV += P^T dO and dK += dS^T Q. dS^T also goes to shared
memory, from which the queries' warpgroup makes dQ (queries.py). Consumers never wait for one
another, so that one's exponentials and loop overhead run under another's products.

    S, dP issued    exponentials under dP    dV issued    dS under dV    dK issued

CONTRACT: for every step of the walk a consumer takes one stage of `q` and one of `do` and gives
each back once, and fills its half of one stage of `ds`; one arrival a warp each. Where
`consumer_loads`, its first warp also loads as load.py says.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward import bounded, early_rows, epilogue, load, products, walk
from jax_fa4.kernels.sm90.backward.config import (
    CONSUMER_WARP,
    KEYS_PER_WARPGROUP,
    BackwardConfig,
)
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.accumulators import (
    ThreadCoordinates,
    convert,
    make_a_operand,
    rows_view,
)
from jax_fa4.kernels.toolkit.transposed_scores import (
    hide,
    load_rows,
    probabilities,
    score_gradients,
)


@dataclass(frozen=True)
class Fragments:
    """This warpgroup's operands in shared memory, and its sums; t<product>r<operand>."""

    tSrK: cute.Tensor  # (MMA, 1, depth): this warpgroup's keys
    tSrQ: cute.Tensor  # (MMA, 1, depth, stages)
    tPrV: cute.Tensor  # (MMA, 1, depth)
    tPrdO: cute.Tensor  # (MMA, 1, depth, stages)
    tVrdO: cute.Tensor  # (MMA, 1, depth, stages): dO as the second operand of dV
    tKrQ: cute.Tensor  # (MMA, 1, depth, stages)
    acc_dK: cute.Tensor
    acc_dV: cute.Tensor


@dataclass(frozen=True)
class State:
    """Registers that change from block to block."""

    acc_S: cute.Tensor  # then P, in float32
    acc_dP: cute.Tensor  # then dS
    tVrP: cute.Tensor  # P^T in 16 bits, operand A of dV
    tKrdS: cute.Tensor  # dS^T, operand A of dK
    lse_log2: cute.Tensor  # of the next S, where rows are read ahead


def _make_fragments(context, wg: Int32) -> Fragments:
    shared, config = context.shared, context.config
    thr_s = context.tiled_mma_s.get_slice(0)
    thr_kv = context.tiled_mma_kv.get_slice(0)

    def second(thread, tensor):
        return thread.make_fragment_B(thread.partition_B(tensor))

    return Fragments(
        tSrK=thr_s.make_fragment_A(thr_s.partition_A(shared.sK))[None, None, None, wg],
        tSrQ=second(thr_s, shared.sQ),
        tPrV=thr_s.make_fragment_A(thr_s.partition_A(shared.sV))[None, None, None, wg],
        tPrdO=second(thr_s, shared.sdO),
        tVrdO=second(thr_kv, products.transposed(shared.sdO)),
        tKrQ=second(thr_kv, products.transposed(shared.sQ)),
        acc_dK=products.accumulator(context.tiled_mma_kv, config.head_dim),
        acc_dV=products.accumulator(context.tiled_mma_kv, config.head_dim),
    )


def _reads_rows_ahead(config: BackwardConfig) -> bool:
    """Whether lse_log2 and delta are read while products run, not among what uses them.

    NOTES: a fifth faster at head dim 64, 2 to 7 % slower at 128.
    """
    return config.head_dim <= 64 and config.consumer_registers >= 208


def _make_state(context) -> State:
    acc_S = products.accumulator(context.tiled_mma_s, context.config.tile_m)
    return State(
        acc_S=acc_S,
        acc_dP=products.accumulator(context.tiled_mma_s, context.config.tile_m),
        tVrP=make_a_operand(acc_S, context.dtype),
        tKrdS=make_a_operand(acc_S, context.dtype),
        lse_log2=cute.make_rmem_tensor(cute.size(rows_view(acc_S), mode=[1]), cutlass.Float32),
    )


@cute.jit
def _write_gradients(context, state, stage, wg, thread_index):
    """dS^T of this warpgroup's keys to shared memory."""
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, cutlass.Float32)
    copy = cute.make_tiled_copy_C(atom, context.tiled_mma_s).get_slice(thread_index)
    registers = cute.make_tensor(state.tKrdS.iterator, state.acc_dP.layout)
    tile = context.shared.sdS[None, None, stage * context.config.consumers + wg]
    cute.copy(copy, copy.retile(registers), copy.partition_D(tile))


def _issue_scores(context, frag, state, stage, thread) -> None:
    """S^T = K Q^T of the queries in this stage."""
    pairs = products.by_depth(frag.tSrK, frag.tSrQ[None, None, None, stage])
    products.issue(context.tiled_mma_s, state.acc_S, pairs, zero_first=True)
    if _reads_rows_ahead(context.config):
        _read_ahead(context, state, stage, thread)


@cute.jit
def _read_ahead(context, state, stage, thread):
    """The log-sum-exps of the queries in this stage, while S is computed."""
    source = context.shared.sLSE.iterator + stage * context.config.tile_m
    rows = load_rows(source, state.acc_S, thread)
    lse_log2 = state.lse_log2
    for c in cutlass.range_constexpr(cute.size(rows)):
        lse_log2[c] = rows[c]


@cute.jit
def _capped_probabilities(context, state, where, stage, thread, early):
    """P of capped scores, in dV's operand; what dS has for it, in dK's."""
    block, key, whole = where
    bounded.cap(context, state.acc_S)
    if not whole:
        bounded.hide(context, state.acc_S, block, key, thread)

    def log_sum(c):
        if cutlass.const_expr(_reads_rows_ahead(context.config)):
            return state.lse_log2[c]
        place = stage * context.config.tile_m + 8 * (c // 2) + thread.column + c % 2
        return early_rows.at(early, context.shared.sLSE, c, place)

    bounded.capped_probabilities(context, state.acc_S, state.tVrP, state.tKrdS, log_sum)


@cute.jit
def _probabilities(context, frag, state, stage, parity, block, key, thread):
    """P of S, under dP, which is issued here."""
    barriers = context.barriers
    # Asked for before the scores are awaited, which hides the load.
    whole = bounded.sees_whole(context, block, key)
    if cutlass.const_expr(not context.config.lookahead):
        barriers["q_full"].wait(stage, parity)
        _issue_scores(context, frag, state, stage, thread)
    early = early_rows.load_if_any(context, context.shared.sLSE, stage, thread)
    barriers["do_full"].wait(stage, parity)
    pairs = products.by_depth(frag.tPrV, frag.tPrdO[None, None, None, stage])
    products.issue(context.tiled_mma_s, state.acc_dP, pairs, zero_first=True)
    if cutlass.const_expr(not context.config.lookahead):
        warpgroup.wait_group(1)
    if cutlass.const_expr(bounded.has_cap(context)):
        _capped_probabilities(context, state, (block, key, whole), stage, thread, early)
    else:
        if cutlass.const_expr(_reads_rows_ahead(context.config)):
            probabilities(state.acc_S, state.lse_log2, context.scale_log2)
        else:
            early_rows.exponentials(context, state.acc_S, stage, thread, early)
        if cutlass.const_expr(context.bounded is not None):
            if not whole:
                bounded.hide(context, state.acc_S, block, key, thread)
        elif context.queries.needs_mask(block):
            hide(state.acc_S, context.band, block * context.config.tile_m, key, thread)


def _factors(context, state):
    """What dS has beside dP - delta: P, or with a soft cap what `bounded` makes of it."""
    if not bounded.has_cap(context):
        return state.acc_S
    return cute.make_tensor(state.tKrdS.iterator, state.acc_dP.layout)


@cute.jit
def _issue_sums(context, frag, state, stage, first):
    """dV += P^T dO and dK += dS^T Q."""
    pairs = products.by_depth(state.tVrP, frag.tVrdO[None, None, None, stage])
    products.issue(context.tiled_mma_kv, frag.acc_dV, pairs, zero_first=first)
    pairs = products.by_depth(state.tKrdS, frag.tKrQ[None, None, None, stage])
    products.issue(context.tiled_mma_kv, frag.acc_dK, pairs, zero_first=first)


@cute.jit
def _issue_next_scores(context, frag, state, ring, now, thread):
    """S of the next step; the last, which has none, does its own again: no branch."""
    stage, parity, is_last = now
    following = stage if is_last else ring.place[0]
    context.barriers["q_full"].wait(following, parity if is_last else ring.place[1])
    _issue_scores(context, frag, state, following, thread)


@cute.jit
def run(context, wg: Int32) -> None:
    """Walk this CTA's blocks of queries as consumer number `wg`; see the contract above."""
    config, barriers = context.config, context.barriers
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    key = context.position.key_block * config.tile_n + wg * KEYS_PER_WARPGROUP
    frag, state = _make_fragments(context, wg), _make_state(context)
    ring, ds_ring = mbarriers.make_ring(config.stages), mbarriers.make_ring(config.ds_stages)

    if cutlass.const_expr(config.consumer_loads):
        loader = load.make_loader(context)
        loads = cute.arch.make_warp_uniform(cute.arch.warp_idx()) == CONSUMER_WARP
        if loads:
            load.start(context, loader)
    barriers["kv_full"].wait(0, 0)
    if cutlass.const_expr(config.lookahead):
        mbarriers.wait_stage(barriers["q_full"], ring)
        _issue_scores(context, frag, state, Int32(0), thread)
        warpgroup.wait_group(0)
    barriers["kv_full"].wait(1, 0)
    head, block = walk.first_step(context)
    count = walk.steps(context)
    for i in cutlass.range(count, unroll=1):
        stage, parity = mbarriers.take(ring, 1)[0]
        _probabilities(context, frag, state, stage, parity, block, key, thread)
        if cutlass.const_expr(_reads_rows_ahead(config)):
            source = context.shared.sDelta.iterator + stage * config.tile_m
            deltas = load_rows(source, state.acc_dP, thread)
            warpgroup.wait_group(0)
            score_gradients(_factors(context, state), state.acc_dP, deltas)
        else:
            early = early_rows.load_if_any(context, context.shared.sDelta, stage, thread)
            warpgroup.wait_group(0)
            factors = _factors(context, state)
            early_rows.score_gradients(context, factors, state.acc_dP, stage, thread, early)
        if cutlass.const_expr(not bounded.has_cap(context)):
            convert(state.acc_S, state.tVrP)
        convert(state.acc_dP, state.tKrdS)
        ds_stage, ds_parity = mbarriers.take(ds_ring, 1)[0]
        barriers["ds_empty"].wait(ds_stage, ds_parity ^ 1)
        _write_gradients(context, state, ds_stage, wg, thread_index)
        _issue_sums(context, frag, state, stage, i == 0)
        if cutlass.const_expr(config.lookahead):
            now = (stage, parity, i == count - 1)
            _issue_next_scores(context, frag, state, ring, now, thread)
        cute.arch.fence_view_async_shared()
        barriers["ds_full"].arrive_as_warp(ds_stage)

        warpgroup.wait_group(1 + int(config.lookahead))
        barriers["do_empty"].arrive_as_warp(stage)
        # NOTES: with a product in flight across the loop's end, ptxas serialises all of them.
        warpgroup.wait_group(0)
        barriers["q_empty"].arrive_as_warp(stage)
        if cutlass.const_expr(config.consumer_loads):  # noqa: SIM102
            # Into the stage of the step before, which the other consumer has left, too.
            if loads & (i > 0):
                load.go_on(context, loader, i + config.stages - 1)
        head, block = walk.next_step(context, head, block)

    epilogue.run(context, frag, wg, thread_index)
