"""A consumer: one warpgroup that owns 64 rows of queries, from scores to output.

Within a warpgroup the next block's S = Q K^T runs on the tensor cores together with this
block's O += P V, and the softmax of the former hides the latter (FlashAttention-3,
section 3.2). Between warpgroups, named barriers pass the right to issue products in turn.

The last blocks of a tile may lie right of all that this consumer's rows see: it skips them,
at most one, as the rows of the first and the last consumer are at most a block apart.

CONTRACT: for every tile of its CTA a consumer takes one stage of `q` (of its own) and one
stage of `k` and of `v` a visited block, and as many turns as every other consumer; it gives
back each stage once, one arrival a warp.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, pipeline
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.forward import bounded, epilogue, products, walk
from jax_fa4.kernels.sm90.forward.config import ROWS_PER_WARPGROUP
from jax_fa4.kernels.sm90.forward.conversion import convert_here
from jax_fa4.kernels.sm90.forward.masks import mask_outside_band
from jax_fa4.kernels.toolkit import softmax
from jax_fa4.kernels.toolkit.accumulators import ThreadCoordinates, convert
from jax_fa4.kernels.toolkit.block_range import block_range, visited_blocks


@dataclass(frozen=True)
class Rows:
    """Whose rows a tile's blocks are multiplied with: this consumer's, and this thread's."""

    wg: Int32
    thread: ThreadCoordinates
    q_index: Int32
    row: Int32
    last_key: Int32  # first key of the last block
    batch: Int32


@cute.jit
def _mask(context, acc, rows, key):
    """Set to -inf the scores of keys that their row does not see."""
    if cutlass.const_expr(context.config.bounded):
        bounded.mask(context, acc, rows, key)
    else:
        mask_outside_band(acc, context.band, rows.row, key, rows.thread)


@cute.jit
def _scores_into_p(context, frag, rows, block, own):
    """Mask and softmax of a tile's first block, and P for the first product with V."""
    if cutlass.const_expr(context.config.softcap):
        bounded.cap(context, frag.acc_S)
    if (block >= own.unmasked_last) | (block < own.unmasked_first):
        _mask(context, frag.acc_S, rows, block * context.config.tile_n)
    softmax.step(frag.acc_S, frag.row_max, frag.row_sum, frag.rescale, context.scale_log2)
    convert(frag.acc_S, frag.tOrP)


@cute.jit
def _block(context, frag, rows, key, masked: cutlass.Constexpr, k_state, v_state):
    """S of one block together with O += P V of the block before it, then the softmax."""
    pipe_k, pipe_v = context.pipelines.k, context.pipelines.v
    pipe_k.consumer_wait(k_state)
    products.wait_turn(context, rows.wg)
    products.issue_scores(context, frag, rows.q_index, k_state)
    pipe_v.consumer_wait(v_state)
    products.issue_values(context, frag, v_state)
    products.pass_turn(context, rows.wg)
    warpgroup.wait_group(1)
    if cutlass.const_expr(context.config.requests_early):
        products.release_queries(context, rows.q_index, key == rows.last_key)
    k_state = products.release(pipe_k, k_state)
    if cutlass.const_expr(context.config.softcap):
        bounded.cap(context, frag.acc_S)
    if cutlass.const_expr(masked):
        _mask(context, frag.acc_S, rows, key)
    softmax.step(frag.acc_S, frag.row_max, frag.row_sum, frag.rescale, context.scale_log2)
    warpgroup.wait_group(0)
    v_state = products.release(pipe_v, v_state)
    if cutlass.const_expr(context.config.converts_early):
        convert_here(frag.acc_S, frag.tOrP)
    softmax.rescale_accumulator(frag.acc_O, frag.rescale)
    if cutlass.const_expr(not context.config.converts_early):
        convert(frag.acc_S, frag.tOrP)
    return k_state, v_state


@cute.jit
def _first_scores(context, frag, q_state, skipped, k_state):
    """Begin a tile: wait for Q and its first K, and issue their product."""
    context.pipelines.q.consumer_wait(q_state)
    k_state = products.skip(context.pipelines.k, skipped, k_state)
    context.pipelines.k.consumer_wait(k_state)
    products.issue_scores(context, frag, q_state.index, k_state)
    return k_state


@cute.jit
def _sink(context, head):
    """Of a bounded kernel, to be asked for before the last product, which hides the load."""
    return bounded.sink_of(context, head) if context.config.bounded else None


@cute.jit
def _finish(context, frag, position, wg, thread_index, sink):
    if cutlass.const_expr(context.config.bounded):
        bounded.finish(context, frag, sink)
    else:
        softmax.finish(frag.acc_O, frag.row_max, frag.row_sum, context.scale_log2)
    epilogue.run(context, frag, position, wg, thread_index)


@cute.jit
def _last_product(context, frag, wg, coming, v_state):
    """O += P V of the tile's last block; looks up the tile after `coming` meanwhile."""
    pipe = context.pipelines.v
    pipe.consumer_wait(v_state)
    products.issue_values(context, frag, v_state)
    after = _tile_after(context, wg, coming)
    warpgroup.wait_group(0)
    return after, products.release(pipe, v_state)


@cute.jit
def _last_product_and_next_scores(context, frag, wg, coming, q_state, k_state, v_state):
    """The last product and the first of tile `coming`; the former is done on return."""
    pipe_k, pipe_v = context.pipelines.k, context.pipelines.v
    context.pipelines.q.consumer_wait(q_state)
    k_state = products.skip(pipe_k, coming[2], k_state)
    pipe_k.consumer_wait(k_state)
    pipe_v.consumer_wait(v_state)
    products.wait_turn(context, wg)
    products.issue_values(context, frag, v_state)
    products.issue_scores(context, frag, q_state.index, k_state)
    products.pass_turn(context, wg)
    after = _tile_after(context, wg, coming)
    warpgroup.wait_group(1)
    return after, k_state, products.release(pipe_v, v_state)


@cute.jit
def _blocks(context, row_block, wg, batch):
    """This consumer's first row, the blocks that its CTA visits, and its own rows' range."""
    config = context.config
    tile_row = row_block * config.tile_m
    if cutlass.const_expr(config.bounded):
        first, last = bounded.visited_blocks(context, row_block, batch)
        group = row_block * config.consumers + wg
        own = bounded.block_range(context, group, batch, first, last)
        return tile_row + wg * ROWS_PER_WARPGROUP, first, last, own
    first, last = visited_blocks(context.band, tile_row, config.tile_m, config.tile_n)
    row = tile_row + wg * ROWS_PER_WARPGROUP
    return row, first, last, block_range(context.band, row, ROWS_PER_WARPGROUP, config.tile_n)


@cute.jit
def _tile(context, wg, unit, second):
    """(unit, second, blocks skipped, row block, head, batch).

    Of the last blocks that its CTA visits, a consumer skips those that its rows cannot see:
    none or one. To decode a tile takes several divisions, so callers do it beside a product.
    """
    row_block, head, batch = walk.decode(context.walk, unit, second)
    _, first, last, own = _blocks(context, row_block, wg, batch)
    skipped = last - cutlass.min(cutlass.max(own.last, first + 1), last)
    return unit, second, skipped, row_block, head, batch


@cute.jit
def _tile_after(context, wg, tile):
    unit, second = walk.following(context.walk, tile[0], tile[1])
    return _tile(context, wg, unit, second)


@cute.jit
def _next_queries(context, wg, q_index, q_phase):
    """This consumer's next stage of Q, and the phase of its barrier."""
    config = context.config
    q_index = q_index + config.consumers
    if q_index >= config.consumers * config.query_stages:
        q_index = wg
        q_phase = q_phase ^ 1
    return q_index, q_phase


@cute.jit
def run(context, wg: Int32) -> None:
    """Walk this CTA's tiles as consumer number `wg`; see the contract above."""
    config, pipes = context.config, context.pipelines
    overlaps = config.query_stages == 2
    thread_index = cute.arch.thread_idx()[0] % 128
    thread = ThreadCoordinates.of_thread(thread_index)
    frag = products.make_fragments(context)
    consumer = pipeline.PipelineUserType.Consumer
    k_state = pipeline.make_pipeline_state(consumer, config.stages)
    v_state = pipeline.make_pipeline_state(consumer, config.stages)
    q_index, q_phase = wg, Int32(0)
    if wg == config.consumers - 1:
        products.pass_turn(context, wg)

    all_units = walk.units(context.walk)
    tile = _tile(context, wg, Int32(cute.arch.block_idx()[0]), Int32(0))
    coming = _tile_after(context, wg, tile)
    if cutlass.const_expr(overlaps):
        first_q = pipeline.PipelineState(config.consumers, Int32(0), q_index, q_phase)
        k_state = _first_scores(context, frag, first_q, tile[2], k_state)
        warpgroup.wait_group(0)
        k_state = products.release(pipes.k, k_state)
    is_first = Boolean(True)
    while tile[0] < all_units:
        _, _, skipped, row_block, head, batch = tile
        row, first, last, own = _blocks(context, row_block, wg, batch)
        q_state = pipeline.PipelineState(config.consumers, Int32(0), q_index, q_phase)
        rows = Rows(wg, thread, q_index, row, first * config.tile_n, batch)
        softmax.reset(frag.row_max, frag.row_sum)
        for _ in cutlass.range(skipped, unroll=1):
            products.wait_turn(context, wg)
            products.pass_turn(context, wg)
        if cutlass.const_expr(not overlaps):
            k_state = _first_scores(context, frag, q_state, skipped, k_state)
            if cutlass.const_expr(config.output_in_values) and not is_first:
                epilogue.output_was_read(context, thread_index)
            warpgroup.wait_group(0)
            k_state = products.release(pipes.k, k_state)
        frag.acc_O.fill(0.0)
        block = last - skipped - 1
        if cutlass.const_expr(config.requests_early):
            products.release_queries(context, q_index, block == first)
        _scores_into_p(context, frag, rows, block, own)
        v_state = products.skip(pipes.v, skipped, v_state)
        for i in cutlass.range(block - own.unmasked_last, unroll=1):
            key = (block - 1 - i) * config.tile_n
            k_state, v_state = _block(context, frag, rows, key, True, k_state, v_state)
        block = cutlass.min(block, own.unmasked_last)
        for i in cutlass.range(block - own.unmasked_first, unroll=1):
            key = (block - 1 - i) * config.tile_n
            k_state, v_state = _block(context, frag, rows, key, False, k_state, v_state)
        block = cutlass.min(block, own.unmasked_first)
        for i in cutlass.range(block - first, unroll=1):
            key = (block - 1 - i) * config.tile_n
            k_state, v_state = _block(context, frag, rows, key, True, k_state, v_state)
        if cutlass.const_expr(not config.requests_early):
            pipes.q.consumer_release(q_state)
        q_index, q_phase = _next_queries(context, wg, q_index, q_phase)
        is_first = Boolean(False)

        position = (row, head, batch)
        sink = _sink(context, head)
        tile = coming
        if overlaps and tile[0] < all_units:
            next_q = pipeline.PipelineState(config.consumers, Int32(0), q_index, q_phase)
            coming, k_state, v_state = _last_product_and_next_scores(
                context, frag, wg, tile, next_q, k_state, v_state
            )
            _finish(context, frag, position, wg, thread_index, sink)
            warpgroup.wait_group(0)
            k_state = products.release(pipes.k, k_state)
        else:
            coming, v_state = _last_product(context, frag, wg, tile, v_state)
            _finish(context, frag, position, wg, thread_index, sink)

    # The last turn that was passed on has no taker; take it, so that every barrier ends whole.
    if wg == 0:
        products.wait_turn(context, wg)
    epilogue.drain()
