"""A consumer: one warpgroup that owns 64 rows of queries, from scores to output.

Within a warpgroup the next block's S = Q K^T runs on the tensor cores together with this
block's O += P V, and the softmax of the former hides the latter (FlashAttention-3,
section 3.2). Between warpgroups, named barriers pass the right to issue products in turn.

CONTRACT: for every tile of its CTA a consumer takes one stage of `q` (index: its own
number) and one stage of `k` and of `v` a visited block; it gives back each stage once,
one arrival a warp.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, pipeline
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.forward import epilogue
from jax_fa4.kernels.sm90.forward.barriers import NamedBarrier
from jax_fa4.kernels.sm90.forward.config import ROWS_PER_WARPGROUP
from jax_fa4.kernels.toolkit import softmax
from jax_fa4.kernels.toolkit.accumulators import ThreadCoordinates, convert, make_a_operand
from jax_fa4.kernels.toolkit.block_range import block_range
from jax_fa4.kernels.toolkit.masks import mask_outside_band


@dataclass(frozen=True)
class Fragments:
    """This warpgroup's operands and registers, allocated once for all tiles."""

    tSrQ: cute.Tensor  # descriptors (MMA, 1, MMA_K) of this warpgroup's queries
    tSrK: cute.Tensor  # descriptors (MMA, 1, MMA_K, stages)
    tOrV: cute.Tensor  # descriptors (MMA, 1, MMA_K, stages)
    tOrP: cute.Tensor  # registers, operand A of P V
    acc_O: cute.Tensor  # registers
    row_max: cute.Tensor  # registers, running maximum; after the tile: lse
    row_sum: cute.Tensor  # registers, this thread's share
    rescale: cute.Tensor  # registers


def _make_fragments(context, wg: Int32) -> Fragments:
    shared, config = context.shared, context.config
    thr_qk = context.tiled_mma_qk.get_slice(0)
    thr_pv = context.tiled_mma_pv.get_slice(0)
    acc_S = _make_scores(context)
    row_max, row_sum = softmax.make_row_state()
    return Fragments(
        tSrQ=thr_qk.make_fragment_A(thr_qk.partition_A(shared.sQ))[None, None, None, wg],
        tSrK=thr_qk.make_fragment_B(thr_qk.partition_B(shared.sK)),
        tOrV=thr_pv.make_fragment_B(thr_pv.partition_B(shared.sV)),
        tOrP=make_a_operand(acc_S, context.dtype),
        acc_O=thr_pv.make_fragment_C(
            thr_pv.partition_shape_C((ROWS_PER_WARPGROUP, config.head_dim))
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
def _wait_turn(context, wg: Int32):
    cute.arch.barrier(barrier_id=int(NamedBarrier.TURN) + wg, number_of_threads=256)


@cute.jit
def _pass_turn(context, wg: Int32):
    following = wg + 1
    following = 0 if following == context.config.consumers else following
    cute.arch.barrier_arrive(barrier_id=int(NamedBarrier.TURN) + following, number_of_threads=256)


@cute.jit
def _first_block(context, frag, band_position, thread, k_state):
    """S of the last block, its softmax, and P for the first product with V."""
    row, key = band_position
    pipe = context.pipelines.k
    acc_S = _make_scores(context)
    pipe.consumer_wait(k_state)
    _issue(context.tiled_mma_qk, acc_S, frag.tSrQ, frag.tSrK[None, None, None, k_state.index], True)
    warpgroup.wait_group(0)
    pipe.consumer_release(k_state)
    k_state.advance()
    mask_outside_band(acc_S, context.band, row, key, thread)
    softmax.step(acc_S, frag.row_max, frag.row_sum, frag.rescale, context.scale_log2)
    convert(acc_S, frag.tOrP)
    return k_state


@cute.jit
def _block(context, frag, band_position, thread, wg, masked: cutlass.Constexpr, k_state, v_state):
    """S of one block together with O += P V of the block before it, then the softmax."""
    row, key = band_position
    pipe_k, pipe_v = context.pipelines.k, context.pipelines.v
    acc_S = _make_scores(context)
    pipe_k.consumer_wait(k_state)
    _wait_turn(context, wg)
    _issue(context.tiled_mma_qk, acc_S, frag.tSrQ, frag.tSrK[None, None, None, k_state.index], True)
    pipe_v.consumer_wait(v_state)
    _issue(
        context.tiled_mma_pv,
        frag.acc_O,
        frag.tOrP,
        frag.tOrV[None, None, None, v_state.index],
        False,
    )
    _pass_turn(context, wg)
    warpgroup.wait_group(1)
    pipe_k.consumer_release(k_state)
    k_state.advance()
    if cutlass.const_expr(masked):
        mask_outside_band(acc_S, context.band, row, key, thread)
    softmax.step(acc_S, frag.row_max, frag.row_sum, frag.rescale, context.scale_log2)
    warpgroup.wait_group(0)
    pipe_v.consumer_release(v_state)
    v_state.advance()
    softmax.rescale_accumulator(frag.acc_O, frag.rescale)
    convert(acc_S, frag.tOrP)
    return k_state, v_state


@cute.jit
def _last_product(context, frag, v_state):
    """O += P V of the first block."""
    pipe = context.pipelines.v
    pipe.consumer_wait(v_state)
    _issue(
        context.tiled_mma_pv,
        frag.acc_O,
        frag.tOrP,
        frag.tOrV[None, None, None, v_state.index],
        False,
    )
    warpgroup.wait_group(0)
    pipe.consumer_release(v_state)
    v_state.advance()
    return v_state


@cute.jit
def run(context, wg: Int32) -> None:
    """Walk this CTA's tiles as consumer number `wg`; see the contract above."""
    config, pipes = context.config, context.pipelines
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    frag = _make_fragments(context, wg)
    consumer = pipeline.PipelineUserType.Consumer
    k_state = pipeline.make_pipeline_state(consumer, config.stages)
    v_state = pipeline.make_pipeline_state(consumer, config.stages)
    q_phase = Int32(0)
    if wg == config.consumers - 1:
        _pass_turn(context, wg)

    tile = cute.arch.block_idx()[0]
    while tile < context.scheduler.tiles():
        row_block, head, batch = context.scheduler.decode(tile)
        tile_row = row_block * config.tile_m
        row = tile_row + wg * ROWS_PER_WARPGROUP
        blocks = block_range(context.band, tile_row, config.tile_m, config.tile_n)
        q_state = pipeline.PipelineState(config.consumers, Int32(0), wg, q_phase)
        pipes.q.consumer_wait(q_state)
        softmax.reset(frag.row_max, frag.row_sum)
        frag.acc_O.fill(0.0)

        block = blocks.last - 1
        k_state = _first_block(context, frag, (row, block * config.tile_n), thread, k_state)
        for i in cutlass.range(block - blocks.unmasked_last, unroll=1):
            key = (block - 1 - i) * config.tile_n
            k_state, v_state = _block(context, frag, (row, key), thread, wg, True, k_state, v_state)
        block = cutlass.min(block, blocks.unmasked_last)
        for i in cutlass.range(block - blocks.unmasked_first, unroll=1):
            key = (block - 1 - i) * config.tile_n
            k_state, v_state = _block(
                context, frag, (row, key), thread, wg, False, k_state, v_state
            )
        block = cutlass.min(block, blocks.unmasked_first)
        for i in cutlass.range(block - blocks.first, unroll=1):
            key = (block - 1 - i) * config.tile_n
            k_state, v_state = _block(context, frag, (row, key), thread, wg, True, k_state, v_state)
        if cutlass.const_expr(not config.output_in_q):
            pipes.q.consumer_release(q_state)
        v_state = _last_product(context, frag, v_state)
        softmax.finish(frag.acc_O, frag.row_max, frag.row_sum, context.scale_log2)
        epilogue.run(context, frag, (row, head, batch), wg, thread_index)
        if cutlass.const_expr(config.output_in_q):
            pipes.q.consumer_release(q_state)
        q_phase = q_phase ^ 1
        tile += Int32(cute.arch.grid_dim()[0])

    # The last turn that was passed on has no taker; take it, so that every barrier ends whole.
    if wg == 0:
        _wait_turn(context, wg)
    epilogue.drain()
