"""The producer: one warp that fetches Q, K and V tiles by TMA.

CONTRACT: for every tile of its CTA, in the scheduler's order, the producer fills one
stage of `q` a consumer and one stage each of `k` and `v` a visited block, from the last
block to the first, V following K by one block as the consumers ask for them. Where the
output lies among the values, a tile's first V waits until `output_read` says that the
tile before it was stored.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, pipeline
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm90.forward import bounded, walk
from jax_fa4.kernels.sm90.forward.config import ROWS_PER_WARPGROUP
from jax_fa4.kernels.sm90.forward.context import EVICT_FIRST
from jax_fa4.kernels.toolkit.block_range import visited_blocks


def _partition(tma, tile_tensor, shared):
    """(source by tile, destination by stage) of a TMA copy of whole tiles."""
    destination, source = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 2),
        cute.group_modes(tile_tensor, 0, 2),
    )
    return source, destination


@cute.jit
def _fill(tma, source, destination, index, pipe, state, policy: cutlass.Constexpr = None):
    """Load tile `index` into the next stage; returns the advanced state."""
    pipe.producer_acquire(state)
    cute.copy(
        tma,
        source[None, index],
        destination[None, state.index],
        tma_bar_ptr=pipe.producer_get_barrier(state),
        cache_policy=None if policy is None else Int64(policy),
    )
    state.advance()
    return state


@cute.jit
def _visited_blocks(context, row_block, batch):
    config = context.config
    if cutlass.const_expr(config.bounded):
        return bounded.visited_blocks(context, row_block, batch)
    row = row_block * config.tile_m
    return visited_blocks(context.band, row, config.tile_m, config.tile_n)


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config, pipes, shared = context.config, context.pipelines, context.shared
    tma_q, mQ = context.gmem.q
    tma_k, mK = context.gmem.k
    tma_v, mV = context.gmem.v
    producer = pipeline.PipelineUserType.Producer
    q_state = pipeline.make_pipeline_state(producer, config.consumers * config.query_stages)
    k_state = pipeline.make_pipeline_state(producer, config.stages)
    v_state = pipeline.make_pipeline_state(producer, config.stages)

    output_phase = Int32(1)  # of the tile before the first, which left nothing

    unit, second = Int32(cute.arch.block_idx()[0]), Int32(0)
    row_block, head, batch = walk.decode(context.walk, unit, second)
    while unit < walk.units(context.walk):
        head_kv = head // context.ratio
        gQ = cute.local_tile(
            mQ[None, None, head, batch], (ROWS_PER_WARPGROUP, config.head_dim), (None, 0)
        )
        gK = cute.local_tile(
            mK[None, None, head_kv, batch], (config.tile_n, config.head_dim), (None, 0)
        )
        gV = cute.local_tile(
            mV[None, None, head_kv, batch], (config.head_dim_v, config.tile_n), (0, None)
        )
        q_source, q_stage = _partition(tma_q, gQ, shared.sQ)
        k_source, k_stage = _partition(tma_k, gK, shared.sK)
        v_source, v_stage = _partition(tma_v, gV, shared.sV)

        first, last = _visited_blocks(context, row_block, batch)
        k_state = _fill(tma_k, k_source, k_stage, last - 1, pipes.k, k_state)
        for i in cutlass.range_constexpr(config.consumers):
            q_tile = row_block * config.consumers + i
            q_state = _fill(tma_q, q_source, q_stage, q_tile, pipes.q, q_state, EVICT_FIRST)
        for i in cutlass.range(last - 1 - first, unroll=1):
            block = last - 1 - i
            k_state = _fill(tma_k, k_source, k_stage, block - 1, pipes.k, k_state)
            if cutlass.const_expr(config.output_in_values) and i == 0:
                cute.arch.mbarrier_wait(pipes.output_read, output_phase)
            v_state = _fill(tma_v, v_source, v_stage, block, pipes.v, v_state)
        if cutlass.const_expr(config.output_in_values):
            if last - 1 == first:
                cute.arch.mbarrier_wait(pipes.output_read, output_phase)
            output_phase = output_phase ^ 1
        # Look the next tile up before the wait for a stage, not after it.
        unit, second = walk.following(context.walk, unit, second)
        row_block, head, batch = walk.decode(context.walk, unit, second)
        v_state = _fill(tma_v, v_source, v_stage, first, pipes.v, v_state)

    # Stay until every stage was read, so that no consumer arrives at a dead CTA's barrier.
    pipes.k.producer_tail(k_state)
    pipes.v.producer_tail(v_state)
