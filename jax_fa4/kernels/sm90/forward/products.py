"""A consumer's operands, the products it issues, and the turns and stages that they take."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.forward.barriers import NamedBarrier
from jax_fa4.kernels.sm90.forward.config import ROWS_PER_WARPGROUP
from jax_fa4.kernels.toolkit import softmax
from jax_fa4.kernels.toolkit.accumulators import make_a_operand


@dataclass(frozen=True)
class Fragments:
    """This warpgroup's operands and registers, allocated once for all tiles."""

    tSrQ: cute.Tensor  # descriptors (MMA, 1, MMA_K, query stages of all consumers)
    tSrK: cute.Tensor  # descriptors (MMA, 1, MMA_K, stages)
    tOrV: cute.Tensor  # descriptors (MMA, 1, MMA_K, stages)
    acc_S: cute.Tensor  # registers
    tOrP: cute.Tensor  # registers, operand A of P V
    acc_O: cute.Tensor  # registers
    row_max: cute.Tensor  # registers, running maximum; after the tile: lse
    row_sum: cute.Tensor  # registers, this thread's share
    rescale: cute.Tensor  # registers


def make_fragments(context) -> Fragments:
    shared, config = context.shared, context.config
    thr_qk = context.tiled_mma_qk.get_slice(0)
    thr_pv = context.tiled_mma_pv.get_slice(0)
    acc_S = _make_scores(context)
    row_max, row_sum = softmax.make_row_state()
    return Fragments(
        tSrQ=thr_qk.make_fragment_A(thr_qk.partition_A(shared.sQ)),
        tSrK=thr_qk.make_fragment_B(thr_qk.partition_B(shared.sK)),
        tOrV=thr_pv.make_fragment_B(thr_pv.partition_B(shared.sV)),
        acc_S=acc_S,
        tOrP=make_a_operand(acc_S, context.dtype),
        acc_O=thr_pv.make_fragment_C(
            thr_pv.partition_shape_C((ROWS_PER_WARPGROUP, config.head_dim_v))
        ),
        row_max=row_max,
        row_sum=row_sum,
        rescale=cute.make_rmem_tensor_like(row_max),
    )


def _make_scores(context) -> cute.Tensor:
    thr_qk = context.tiled_mma_qk.get_slice(0)
    shape = thr_qk.partition_shape_C((ROWS_PER_WARPGROUP, context.config.tile_n))
    return thr_qk.make_fragment_C(shape)


@cute.jit
def _issue(tiled_mma, acc, a, b, zero_first: cutlass.Constexpr):
    """Issue acc (+)= a b over all of the depth, and commit it as one group."""
    warpgroup.fence()
    # NOTES: an atom of its own, since setting a field rebinds a value of this region.
    atom = cute.make_mma_atom(tiled_mma.op)
    atom.set(warpgroup.Field.ACCUMULATE, not zero_first)
    for kk in cutlass.range_constexpr(cute.size(a, mode=[2])):
        cute.gemm(atom, acc, a[None, None, kk], b[None, None, kk], acc)
        atom.set(warpgroup.Field.ACCUMULATE, True)
    warpgroup.commit_group()


@cute.jit
def wait_turn(context, wg: Int32):
    cute.arch.barrier(barrier_id=int(NamedBarrier.TURN) + wg, number_of_threads=256)


@cute.jit
def pass_turn(context, wg: Int32):
    following = wg + 1
    following = 0 if following == context.config.consumers else following
    cute.arch.barrier_arrive(barrier_id=int(NamedBarrier.TURN) + following, number_of_threads=256)


@cute.jit
def issue_scores(context, frag, q_index, k_state):
    _issue(
        context.tiled_mma_qk,
        frag.acc_S,
        frag.tSrQ[None, None, None, q_index],
        frag.tSrK[None, None, None, k_state.index],
        True,
    )


@cute.jit
def issue_values(context, frag, v_state):
    _issue(
        context.tiled_mma_pv,
        frag.acc_O,
        frag.tOrP,
        frag.tOrV[None, None, None, v_state.index],
        False,
    )


@cute.jit
def skip(pipe, count: Int32, state):
    """Give back `count` stages unread."""
    for _ in cutlass.range(count, unroll=1):
        pipe.consumer_wait(state)
        pipe.consumer_release(state)
        state.advance()
    return state


@cute.jit
def release(pipe, state):
    pipe.consumer_release(state)
    state.advance()
    return state


@cute.jit
def release_queries(context, q_index, condition):
    """Give back this consumer's stage of Q if `condition` holds."""
    pipe = context.pipelines.q
    if pipe.is_signaling_thread & condition:
        cute.arch.mbarrier_arrive(pipe.sync_object_empty.get_barrier(q_index))
