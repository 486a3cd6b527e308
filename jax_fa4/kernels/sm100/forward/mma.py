"""The MMA warp: one thread of it issues every product of the CTA, or of the pair.

CONTRACT: step by step through the blocks of its tiles, for each t that takes part:

    S[t] = Q[t] K of the next block  once s_empty says that its slot was read; the next tile's
                                     first block after this tile's last
    O[t] += P[t] V of this block     once pv_ready says that P and O are there

so that a softmax warpgroup that is done with a block finds the scores of its next one. P has
columns of its own: p_empty ends with every product with V, and softmax t waits for it before it
writes P[t] or lets O[t] be scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import tcgen05
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.forward.config import P_HEAD, SLOTS, TILE_N
from jax_fa4.kernels.sm100.forward.roles import Blocks, first_tile, make_turn, next_tile, work_of
from jax_fa4.kernels.toolkit.mbarriers import (
    Ring,
    make_counters,
    make_ring,
    take,
    wait_next,
)
from jax_fa4.kernels.toolkit.tensor_memory import fence_after_sync


@dataclass(frozen=True)
class Operands:
    """Descriptors of shared memory, and views of tensor memory by slot or accumulator."""

    tSrQ: cute.Tensor  # (MMA, 1, MMA_K, q_tiles)
    tSrK: cute.Tensor  # (MMA, 1, MMA_K, kv_stages)
    tOrV: cute.Tensor  # (MMA, 1, MMA_K, kv_stages)
    tStS: tuple[cute.Tensor, ...]
    tOrP: tuple[cute.Tensor, ...]  # (MMA, 1, MMA_K)
    tOtO: tuple[cute.Tensor, ...]


@dataclass(frozen=True)
class Progress:
    """How far this warp is with each barrier that it waits for."""

    ring: Ring
    q_full: cute.Tensor
    s_empty: cute.Tensor
    pv_ready: cute.Tensor
    p_tail: cute.Tensor


def make_progress(ring: Ring, waits: int) -> Progress:
    """At the beginning; it waits for `waits` barriers of each kind by turns."""
    return Progress(ring, *(make_counters(waits) for _ in range(4)))


def make_operands(context) -> Operands:
    shared, columns, tmem = context.shared, context.config.tensor_memory, context.tmem
    d_v, rows, dtype = context.config.head_dim_v, context.config.rows, context.dtype
    qk, pv = context.tiled_mma_qk.get_slice(0), context.tiled_mma_pv.get_slice(0)
    scores = qk.make_fragment_C(qk.partition_shape_C((rows, TILE_N))).layout
    output = pv.make_fragment_C(pv.partition_shape_C((rows, d_v))).layout
    tile = (rows, d_v, TILE_N)
    p_layout = blackwell.make_smem_layout_a(context.tiled_mma_pv, tile, dtype, 1)
    tP = cute.make_tensor(tmem, p_layout.outer)
    tOrP = pv.make_fragment_A(tP)[None, None, None, 0]
    slots, outputs = range(SLOTS), range(context.config.outputs)  # a slot or a tile each
    p_base = [cute.recast_ptr(tmem + columns.probabilities_of(t), dtype=tOrP.dtype) for t in slots]
    return Operands(
        tSrQ=qk.make_fragment_A(shared.sQ),
        tSrK=qk.make_fragment_B(shared.sK),
        tOrV=pv.make_fragment_B(shared.sV),
        tStS=tuple(cute.make_tensor(tmem + columns.scores_of(t), scores) for t in slots),
        tOrP=tuple(cute.make_tensor(base, tOrP.layout) for base in p_base),
        tOtO=tuple(cute.make_tensor(tmem + columns.output_of(t), output) for t in outputs),
    )


@cute.jit
def multiply(tiled_mma, acc, a, b, begin: cutlass.Constexpr, end: cutlass.Constexpr, accumulate):
    """acc (+)= a b over slices [begin, end) of a's depth; `accumulate` is for slice `begin`.

    b is a part of the depth, and begins at a multiple of its size.
    """
    size = cute.size(b, mode=[2])
    # NOTES: an atom of its own, since setting a field rebinds a value of this region.
    atom = cute.make_mma_atom(tiled_mma.op)
    atom.set(tcgen05.Field.ACCUMULATE, accumulate)
    for kk in cutlass.range_constexpr(begin, end):
        cute.gemm(atom, acc, a[None, None, kk], b[None, None, kk % size], acc)
        atom.set(tcgen05.Field.ACCUMULATE, True)


def _part(context, operand, stage):
    """What a stage of the ring holds, once it is there: for the second tile at once."""
    number, parity = stage
    context.barriers["kv_full"].wait(number, parity)
    return operand[None, None, None, number]


def _release(context, stages) -> None:
    """Give stages of the ring back when every product so far is done."""
    for number, _ in stages:
        context.barriers["kv_empty"].commit(number)


@cute.jit
def _scores(
    context, operands, progress, t: cutlass.Constexpr, blocks: Blocks, block: Int32, stages
):
    """S[t] of `block`, whose K is in `stages` of the ring, if t visits it."""
    barriers = context.barriers
    if blocks.has(block):
        if block == blocks.last - 1:
            wait_next(barriers["q_full"], progress.q_full, t)
        slot = t % context.config.score_slots
        wait_next(barriers["s_empty"], progress.s_empty, slot, producer=True)
        fence_after_sync()
        a = operands.tSrQ[None, None, None, t]
        depth = cute.size(a, mode=[2]) // len(stages)
        for part in cutlass.range_constexpr(len(stages)):
            b = _part(context, operands.tSrK, stages[part])
            begin = part * depth
            multiply(context.tiled_mma_qk, operands.tStS[t], a, b, begin, begin + depth, part > 0)
        barriers["s_full"].commit(t)
        if block == blocks.first:
            barriers["q_empty"].commit(t)


@cute.jit
def _output(
    context, operands, progress, t: cutlass.Constexpr, blocks: Blocks, block: Int32, stages
):
    """O[t] += P[t] V of `block`, whose V is in `stages` of the ring, if t visits it."""
    barriers = context.barriers
    if blocks.has(block):
        mma, acc, a = context.tiled_mma_pv, operands.tOtO[t], operands.tOrP[t]
        whole = cute.size(a, mode=[2])
        depth, head = whole // len(stages), whole * P_HEAD // TILE_N
        wait_next(barriers["pv_ready"], progress.pv_ready, t)
        fence_after_sync()
        for part in cutlass.range_constexpr(len(stages)):
            b = _part(context, operands.tOrV, stages[part])
            begin, end = part * depth, (part + 1) * depth
            accumulate = True if part > 0 else block != blocks.last - 1
            if cutlass.const_expr(head >= end):
                multiply(mma, acc, a, b, begin, end, accumulate)
            else:
                multiply(mma, acc, a, b, begin, head, accumulate)
                wait_next(barriers["p_tail"], progress.p_tail, t)
                fence_after_sync()
                multiply(mma, acc, a, b, head, end, True)
        barriers["p_empty"].commit(t)
        if block == blocks.first:
            barriers["o_full"].commit(t)


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config = context.config
    operands = make_operands(context)
    ring = make_ring(config.kv_stages)
    tiles = config.q_tiles
    progress = make_progress(ring, tiles)

    tile, turn = first_tile(context), make_turn(context)
    if tile < context.scheduler.tiles():
        work = work_of(context, tile)
        stages = take(ring, config.k_parts)
        for t in cutlass.range_constexpr(tiles):
            _scores(context, operands, progress, t, work.blocks[t], work.last - 1, stages)
        _release(context, stages)

    while tile < context.scheduler.tiles():
        work = work_of(context, tile)
        for i in cutlass.range(work.steps, unroll=1):
            block = work.block(i)
            below = work.block(i + 1) if config.bounded else block - 1
            _step(context, operands, progress, work.blocks, block, work.blocks, below)
        tile = next_tile(context, tile, turn)
        if tile < context.scheduler.tiles():
            following = work_of(context, tile)
            _step(
                context,
                operands,
                progress,
                work.blocks,
                work.first,
                following.blocks,
                following.last - 1,
            )
        else:
            stages = take(ring, config.v_parts)
            for t in cutlass.range_constexpr(tiles):
                _output(context, operands, progress, t, work.blocks[t], work.first, stages)
            _release(context, stages)


@cute.jit
def _step(context, operands, progress, blocks, block, next_blocks, next_block):
    """K of `next_block`, which may be of the next tile, and V of `block`."""
    config = context.config
    k_stages, v_stages = take(progress.ring, config.k_parts), take(progress.ring, config.v_parts)
    for t in cutlass.range_constexpr(config.q_tiles):
        _scores(context, operands, progress, t, next_blocks[t], next_block, k_stages)
        if cutlass.const_expr(t == config.q_tiles - 1):
            _release(context, k_stages)
        _output(context, operands, progress, t, blocks[t], block, v_stages)
    _release(context, v_stages)
