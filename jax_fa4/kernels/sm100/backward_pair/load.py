"""The load warp of each CTA: K and V once, and Q, dO, lse and delta for every block of queries.

CONTRACT: in the order in which the products take them,

    K, Q and statistics of the first visit, V, dO, dO by columns, K by columns
    for every further visit: its Q and statistics; Q by columns of the visit before; its dO, twice
    Q by columns of the last

Each CTA copies its half of an operand that both share, or its own keys, and the leader's barrier
counts the bytes of both. Statistics are each CTA's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.backward.config import TILE
from jax_fa4.kernels.sm100.backward.roles import next_visit, place_of
from jax_fa4.kernels.sm100.backward_pair.config import PAIR, PAIR_KEYS, STATS_STAGES
from jax_fa4.kernels.sm100.backward_pair.roles import work_of
from jax_fa4.kernels.toolkit import bulk_rows
from jax_fa4.kernels.toolkit.mbarriers import (
    Ring,
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)

_STATISTICS_BYTES = 2 * TILE * 4
_ROUNDS = ("q", "qt", "do", "dot")


@dataclass(frozen=True)
class Progress:
    """How often this warp has filled each tile of queries, by the names of the barriers."""

    uses: dict[str, cute.Tensor]
    stats: Ring


@cute.jit
def _copy(context, name: cutlass.Constexpr, thread_tiles, shared, number: Int32) -> None:
    """Start the copy of tile `number`, which completes at the leader's barrier `name`_full."""
    tma, _ = getattr(context.gmem, name)
    destination, source = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 3),
        cute.group_modes(thread_tiles, 0, 3),
    )
    full = context.barriers[f"{name}_full"]
    if context.rank == 0:
        with cute.arch.elect_one():
            size = cute.size_in_bytes(context.dtype, destination[None, 0].layout)
            full.arrive_with_bytes(0, size * PAIR)
    cute.copy(tma, source[None, number], destination[None, 0], tma_bar_ptr=full.at(0))


@cute.jit
def _load_keys(context, work, name: cutlass.Constexpr) -> None:
    """K or V: the pair's keys, of which each CTA has its own; or K by columns (kt), all keys."""
    config, mmas, shared, gmem = context.config, context.mmas, context.shared, context.gmem
    mX = getattr(gmem, name)[1][None, None, work.head_kv, work.batch]
    number = work.pair_key // PAIR_KEYS
    if cutlass.const_expr(name == "kt"):
        gX = cute.local_tile(mX, (config.head_dim, PAIR_KEYS), (0, None))
        tiles = mmas.dq.get_slice(context.rank).partition_B(gX)
        _copy(context, name, tiles, shared.sKt, number)
    else:
        width = config.head_dim if name == "k" else config.head_dim_v
        gX = cute.local_tile(mX, (PAIR_KEYS, width), (None, 0))
        tiles = mmas.scores.get_slice(context.rank).partition_A(gX)
        _copy(context, name, tiles, shared.sK if name == "k" else shared.sV, number)


@cute.jit
def _load_queries(context, progress, name: cutlass.Constexpr, work, head, block: Int32) -> None:
    """A block of Q or dO, half of its rows (q, do) or of its columns (qt, dot)."""
    config, mmas, shared, gmem = context.config, context.mmas, context.shared, context.gmem
    wait_next(context.barriers[f"{name}_empty"], progress.uses[name], 0, producer=True)
    mX = getattr(gmem, name)[1][None, None, head, work.batch]
    is_q = name in ("q", "qt")
    width = config.head_dim if is_q else config.head_dim_v
    if cutlass.const_expr(name in ("qt", "dot")):
        mma, tile = (mmas.dk, shared.sQt) if is_q else (mmas.dv, shared.sdOt)
        gX = cute.local_tile(mX, (width, TILE), (0, None))
        _copy(context, name, mma.get_slice(context.rank).partition_B(gX), tile, block)
    else:
        gX = cute.local_tile(mX, (TILE, width), (None, 0))
        tiles = mmas.scores.get_slice(context.rank).partition_B(gX)
        _copy(context, name, tiles, shared.sQ if is_q else shared.sdO, block)


@cute.jit
def _load_statistics(context, progress, work, head: Int32, block: Int32) -> None:
    """lse and delta of a block of queries."""
    barriers, sStats, gmem, ring = (
        context.barriers,
        context.shared.sStats,
        context.gmem,
        progress.stats,
    )
    row = place_of(context, work, head, block) * TILE
    wait_stage(barriers["stats_empty"], ring, producer=True)
    full = barriers["stats_full"]
    stage = ring.stage
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, _STATISTICS_BYTES)
        target = sStats.iterator + stage * (2 * TILE)
        bulk_rows.load(gmem.lse_log2 + row, target, TILE, full.at(stage))
        bulk_rows.load(gmem.delta + row, target + TILE, TILE, full.at(stage))
    advance(ring)


@cute.jit
def run(context) -> None:
    """See the contract above."""
    work = work_of(context)
    progress = Progress({name: make_counters(1) for name in _ROUNDS}, make_ring(STATS_STAGES))
    head, block = work.head_kv * context.ratio, work.first
    _load_keys(context, work, "k")
    _load_queries(context, progress, "q", work, head, block)
    _load_statistics(context, progress, work, head, block)
    _load_keys(context, work, "v")
    _load_queries(context, progress, "do", work, head, block)
    _load_queries(context, progress, "dot", work, head, block)
    _load_keys(context, work, "kt")
    for _ in cutlass.range(1, work.visits, unroll=1):
        next_head, next_block = next_visit(work, head, block)
        _load_queries(context, progress, "q", work, next_head, next_block)
        _load_statistics(context, progress, work, next_head, next_block)
        _load_queries(context, progress, "qt", work, head, block)
        _load_queries(context, progress, "do", work, next_head, next_block)
        _load_queries(context, progress, "dot", work, next_head, next_block)
        head, block = next_head, next_block
    _load_queries(context, progress, "qt", work, head, block)

    # Stay until every tile was read, so that no product arrives at a dead CTA's barrier.
    for name in _ROUNDS:
        wait_next(context.barriers[f"{name}_empty"], progress.uses[name], 0, producer=True)
