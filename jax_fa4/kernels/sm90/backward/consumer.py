"""A consumer: one warpgroup that owns 64 keys, their dK and dV, and a panel of every dQ.

Scores are transposed, S^T = K Q^T, keys by queries: then P^T and dS^T are, in the registers
in which they come up, the operands A of dV += P^T dO and dK += dS^T Q, and only dQ = dS K wants
dS in shared memory. The products of block j are issued in this order, each pair of lines being
what the tensor cores have to do meanwhile:

    dP(j)                            exponentials of S(j)             S(j), dK(j-1), dP(j)
    dV(j)                            dS = P (dP - delta), to sdS      dV(j)
    dQ(j), S(j+1), dK(j)             dQ to global memory              S(j+1), dK(j)

CONTRACT: for every query head of the group and every visited block of queries a consumer takes
one stage of `q` and one of `do` and gives each back once, one arrival a warp.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import warpgroup
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward import epilogue, products
from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.accumulators import (
    ROWS_PER_THREAD,
    ThreadCoordinates,
    convert,
    make_a_operand,
    rows_view,
)
from jax_fa4.kernels.toolkit.bulk_copies import add_floats, wait_until_added


@dataclass(frozen=True)
class Fragments:
    """This warpgroup's operands in shared memory, and its sums; t<product>r<operand>."""

    tSrK: cute.Tensor  # (MMA, 1, depth): this warpgroup's keys
    tSrQ: cute.Tensor  # (MMA, 1, depth, stages)
    tPrV: cute.Tensor  # (MMA, 1, depth)
    tPrdO: cute.Tensor  # (MMA, 1, depth, stages)
    tVrdO: cute.Tensor  # (MMA, 1, depth, stages): dO as the second operand of dV
    tKrQ: cute.Tensor  # (MMA, 1, depth, stages)
    tQrdS: cute.Tensor  # (MMA, depth, consumer and buffer): this warpgroup's rows of dQ
    tQrK: cute.Tensor  # (MMA, depth, consumers): its columns
    acc_dK: cute.Tensor
    acc_dV: cute.Tensor


@dataclass(frozen=True)
class State:
    """Registers that change from block to block."""

    acc_S: cute.Tensor  # then P, in float32
    acc_dP: cute.Tensor  # then dS
    tVrP: cute.Tensor  # P^T in 16 bits, operand A of dV
    tKrdS: cute.Tensor  # dS^T, operand A of dK


def _make_fragments(context, wg: Int32) -> Fragments:
    shared, config = context.shared, context.config
    thr_s = context.tiled_mma_s.get_slice(0)
    thr_kv = context.tiled_mma_kv.get_slice(0)
    thr_q = context.tiled_mma_q.get_slice(0)

    def second(thread, tensor):
        return thread.make_fragment_B(thread.partition_B(tensor))

    tQrdS = thr_q.make_fragment_A(thr_q.partition_A(products.transposed(shared.sdS)))
    tQrK = second(thr_q, products.transposed(shared.sK))
    by_rows = config.dq_by_rows
    return Fragments(
        tSrK=thr_s.make_fragment_A(thr_s.partition_A(shared.sK))[None, None, None, wg],
        tSrQ=second(thr_s, shared.sQ),
        tPrV=thr_s.make_fragment_A(thr_s.partition_A(shared.sV))[None, None, None, wg],
        tPrdO=second(thr_s, shared.sdO),
        tVrdO=second(thr_kv, products.transposed(shared.sdO)),
        tKrQ=second(thr_kv, products.transposed(shared.sQ)),
        tQrdS=tQrdS[None, wg if by_rows else 0, None, None],
        tQrK=tQrK[None, 0 if by_rows else wg, None, None],
        acc_dK=products.accumulator(context.tiled_mma_kv, config.head_dim),
        acc_dV=products.accumulator(context.tiled_mma_kv, config.head_dim),
    )


@cute.jit
def _hide(context, acc, row, key, thread):
    """Set to 0 the probabilities of keys that the band hides; acc is keys by queries."""
    band = context.band
    probabilities = rows_view(acc)
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        j = key + thread.row + 8 * r
        # Bounds of the queries that see key j, relative to this thread's first column.
        begin = j - band.upper - row - thread.column
        end = cutlass.min(j - band.lower, row + context.config.tile_m) - row - thread.column
        end = -1 if j >= band.seqlen_k else end
        for c in cutlass.range_constexpr(cute.size(probabilities, mode=[1])):
            column = c % 2 + 8 * (c // 2)
            hidden = (begin > column) | (end < column)
            probabilities[r, c] = cutlass.Float32(0.0) if hidden else probabilities[r, c]


@cute.jit
def _exponentials(context, acc, stage, thread):
    """acc = 2^(acc * scale - lse) with a log-sum-exp a query, that is a column."""
    lse = context.shared.sLSE
    scale = context.scale_log2
    scores = rows_view(acc)
    for group in cutlass.range_constexpr(context.config.tile_m // 8):
        for pair in cutlass.range_constexpr(2):
            c = 2 * group + pair
            bias = lse[stage * context.config.tile_m + 8 * group + thread.column + pair]
            for r in cutlass.range_constexpr(ROWS_PER_THREAD):
                scores[r, c] = cute.math.exp2(scores[r, c] * scale - bias, fastmath=True)


@cute.jit
def _score_gradients(context, acc_P, acc_dP, stage, thread):
    """acc_dP = P (dP - delta)."""
    deltas = context.shared.sDelta
    probabilities, gradients = rows_view(acc_P), rows_view(acc_dP)
    for group in cutlass.range_constexpr(context.config.tile_m // 8):
        for pair in cutlass.range_constexpr(2):
            c = 2 * group + pair
            delta = deltas[stage * context.config.tile_m + 8 * group + thread.column + pair]
            for r in cutlass.range_constexpr(ROWS_PER_THREAD):
                gradients[r, c] = probabilities[r, c] * (gradients[r, c] - delta)


@cute.jit
def _publish(context, tKrdS, buffer, wg, thread_index):
    """dS^T of this warpgroup's keys to shared memory, then wait for the other consumer's."""
    atom = hopper.get_smem_store_op(LayoutEnum.ROW_MAJOR, context.dtype, cutlass.Float32)
    copy = cute.make_tiled_copy_C(atom, context.tiled_mma_s).get_slice(thread_index)
    registers = cute.make_tensor(
        tKrdS.iterator,
        products.accumulator(context.tiled_mma_s, context.config.tile_m).layout,
    )
    tile = context.shared.sdS[None, None, buffer * context.config.consumers + wg]
    cute.copy(copy, copy.retile(registers), copy.partition_D(tile))
    cute.arch.fence_view_async_shared()
    epilogue.sync_consumers(context)


@cute.jit
def _add_queries(context, acc_dQ, head, block, wg, thread_index):
    """Add this panel of dQ to global memory, in the order in which registers hold it.

    A warp stages its share and adds it on its own. Panels of a (batch, head) follow one another,
    and within one the shares of its four warps; registers 4 g .. 4 g + 3 of a lane are floats
    128 g + 4 lane .. + 3 of its warp's share.
    """
    config = context.config
    warp, lane = cute.arch.make_warp_uniform(thread_index // 32), thread_index % 32
    size = config.dq_columns * KEYS_PER_WARPGROUP
    share = cute.size(acc_dQ) * 32
    staged = (wg * 4 + warp) * share
    wait_until_added(lane)
    for group in cutlass.range_constexpr(cute.size(acc_dQ) // 4):
        source = cute.make_tensor(acc_dQ.iterator + group * 4, cute.make_layout(4))
        place = staged + group * 128 + lane * 4
        target = context.shared.sdQ.iterator + cute.assume(place, divby=4)
        cute.autovec_copy(source, cute.make_tensor(target, cute.make_layout(4)))
    cute.arch.fence_view_async_shared()
    cute.arch.sync_warp()
    row = (Int64(context.position.batch) * context.heads_q + head) * context.rows_padded
    panel = row * config.head_dim + (block * config.consumers + wg) * size + warp * share
    target = context.gmem.dq_accum + cute.assume(panel, divby=4)
    add_floats(context.shared.sdQ.iterator + staged, target, share, lane)


def _make_state(context) -> State:
    acc_S = products.accumulator(context.tiled_mma_s, context.config.tile_m)
    return State(
        acc_S=acc_S,
        acc_dP=products.accumulator(context.tiled_mma_s, context.config.tile_m),
        tVrP=make_a_operand(acc_S, context.dtype),
        tKrdS=make_a_operand(acc_S, context.dtype),
    )


def _issue_queries(context, frag, buffer) -> cute.Tensor:
    """dQ = dS K, this warpgroup's panel."""
    acc_dQ = products.accumulator(context.tiled_mma_q, context.config.dq_columns)
    pairs = []
    for j in range(context.config.consumers):
        a = frag.tQrdS[None, None, buffer * context.config.consumers + j]
        b = frag.tQrK[None, None, j]
        pairs += products.by_depth(products.one_tile(a), products.one_tile(b))
    products.issue(context.tiled_mma_q, acc_dQ, pairs, zero_first=True)
    return acc_dQ


@cute.jit
def _probabilities(context, frag, state, rings, block, key, thread, first):
    """S and dP; P of S under dP; issues dV += P^T dO."""
    barriers, queries = context.barriers, context.queries
    (q_stage, q_parity), (do_stage, do_parity) = rings
    barriers["q_full"].wait(q_stage, q_parity)
    pairs = products.by_depth(frag.tSrK, frag.tSrQ[None, None, None, q_stage])
    products.issue(context.tiled_mma_s, state.acc_S, pairs, zero_first=True)
    barriers["do_full"].wait(do_stage, do_parity)
    pairs = products.by_depth(frag.tPrV, frag.tPrdO[None, None, None, do_stage])
    products.issue(context.tiled_mma_s, state.acc_dP, pairs, zero_first=True)
    warpgroup.wait_group(1)
    _exponentials(context, state.acc_S, q_stage, thread)
    if queries.needs_mask(block):
        _hide(context, state.acc_S, block * context.config.tile_m, key, thread)
    convert(state.acc_S, state.tVrP)
    pairs = products.by_depth(state.tVrP, frag.tVrdO[None, None, None, do_stage])
    products.issue(context.tiled_mma_kv, frag.acc_dV, pairs, zero_first=first)


@cute.jit
def run(context, wg: Int32) -> None:
    """Walk this CTA's blocks of queries as consumer number `wg`; see the contract above."""
    config, barriers, queries = context.config, context.barriers, context.queries
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    key = context.position.key_block * config.tile_n + wg * KEYS_PER_WARPGROUP
    frag, state = _make_fragments(context, wg), _make_state(context)

    barriers["kv_full"].wait(0, 0)
    barriers["kv_full"].wait(1, 0)
    q_ring, do_ring = mbarriers.make_ring(config.stages), mbarriers.make_ring(config.stages)
    head = context.position.head_kv * context.ratio
    block = queries.first
    buffer = Int32(0)
    blocks = (queries.last - queries.first) * context.ratio
    for i in cutlass.range(blocks, unroll=1):
        ((q_stage, q_parity),), ((do_stage, do_parity),) = (
            mbarriers.take(q_ring, 1),
            mbarriers.take(do_ring, 1),
        )
        rings = (q_stage, q_parity), (do_stage, do_parity)
        _probabilities(context, frag, state, rings, block, key, thread, i == 0)

        # ---- dS, under dV
        warpgroup.wait_group(1)
        _score_gradients(context, state.acc_S, state.acc_dP, do_stage, thread)
        convert(state.acc_dP, state.tKrdS)
        _publish(context, state.tKrdS, buffer, wg, thread_index)

        # ---- dQ to global memory, under dK
        acc_dQ = _issue_queries(context, frag, buffer)
        pairs = products.by_depth(state.tKrdS, frag.tKrQ[None, None, None, q_stage])
        products.issue(context.tiled_mma_kv, frag.acc_dK, pairs, zero_first=i == 0)
        warpgroup.wait_group(2)
        barriers["do_empty"].arrive_as_warp(do_stage)
        warpgroup.wait_group(1)
        _add_queries(context, acc_dQ, head, block, wg, thread_index)
        # NOTES: with a product in flight across the loop's end, ptxas serialises all of them.
        warpgroup.wait_group(0)
        barriers["q_empty"].arrive_as_warp(q_stage)

        block = block + 1
        wraps = block == queries.last
        head = head + 1 if wraps else head
        block = queries.first if wraps else block
        buffer = Int32(0) if buffer == config.ds_buffers - 1 else buffer + 1

    wait_until_added(thread_index % 32)
    epilogue.run(context, frag, wg, thread_index)
