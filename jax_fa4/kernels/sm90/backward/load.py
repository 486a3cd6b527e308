"""The producer: one warp that fetches K and V once, and Q, dO and their rows' numbers in rings.

CONTRACT: for every query head of the group and every visited block of queries, upwards, the
producer fills one stage of `q` (Q and lse_log2) and one of `do` (dO and delta).
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int64
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.bulk_copies import load_floats

_FLOAT_BYTES = 4


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


def _load_keys(context, tma, tiles, shared, which: int) -> None:
    """Load this CTA's tiles of K or V, one a consumer, onto one barrier."""
    config, barriers = context.config, context.barriers["kv_full"]
    source, destination = _partition(tma, tiles, shared)
    with cute.arch.elect_one():
        barriers.arrive_with_bytes(which, cute.size_in_bytes(context.dtype, shared.layout))
    for i in range(config.consumers):
        tile = context.position.key_block * config.consumers + i
        cute.copy(tma, source[None, tile], destination[None, i], tma_bar_ptr=barriers.at(which))


def _fill(context, ring, name: str, tma, source, destination, numbers) -> None:
    """Load a tile, and `numbers`, one a row from global to shared, into the ring's next stage."""
    full, empty = context.barriers[name + "_full"], context.barriers[name + "_empty"]
    rows, shared_rows = numbers
    tile_m = context.config.tile_m
    stage = ring.stage
    mbarriers.wait_stage(empty, ring, producer=True)
    tile_bytes = cute.size_in_bytes(context.dtype, destination[None, 0].layout)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, tile_bytes + tile_m * _FLOAT_BYTES)
    cute.copy(tma, source, destination[None, stage], tma_bar_ptr=full.at(stage))
    load_floats(rows, shared_rows.iterator + stage * tile_m, tile_m, full.at(stage))
    mbarriers.advance(ring)


def _head_tiles(context, head):
    """(source by block of queries, destination by stage) of Q and of dO, and the first row."""
    config, batch = context.config, context.position.batch
    sources = []
    for (tma, tensor), shared in (
        (context.gmem.q, context.shared.sQ),
        (context.gmem.do, context.shared.sdO),
    ):
        tile = (config.tile_m, cute.size(shared, mode=[1]))
        tiles = cute.local_tile(tensor[None, None, head, batch], tile, (None, 0))
        sources.append(_partition(tma, tiles, shared))
    return *sources, (Int64(batch) * context.heads_q + head) * context.rows_padded


@cute.jit
def _fill_q(context, ring, head, block):
    (source, stages), _, rows = _head_tiles(context, head)
    row = cute.assume(rows + block * context.config.tile_m, divby=context.config.tile_m)
    numbers = (context.gmem.lse_log2 + row, context.shared.sLSE)
    _fill(context, ring, "q", context.gmem.q[0], source[None, block], stages, numbers)


@cute.jit
def _fill_do(context, ring, head, block):
    _, (source, stages), rows = _head_tiles(context, head)
    row = cute.assume(rows + block * context.config.tile_m, divby=context.config.tile_m)
    numbers = (context.gmem.delta + row, context.shared.sDelta)
    _fill(context, ring, "do", context.gmem.do[0], source[None, block], stages, numbers)


@cute.jit
def run(context) -> None:
    """Load what this CTA's consumers ask for; see the contract above."""
    config, shared, position = context.config, context.shared, context.position
    queries = context.queries
    tma_k, mK = context.gmem.k
    tma_v, mV = context.gmem.v
    head_kv, batch = position.head_kv, position.batch
    k_tile = (KEYS_PER_WARPGROUP, cute.size(shared.sK, mode=[1]))
    v_tile = (KEYS_PER_WARPGROUP, cute.size(shared.sV, mode=[1]))
    gK = cute.local_tile(mK[None, None, head_kv, batch], k_tile, (None, 0))
    gV = cute.local_tile(mV[None, None, head_kv, batch], v_tile, (None, 0))
    q_ring, do_ring = mbarriers.make_ring(config.stages), mbarriers.make_ring(config.stages)

    # What the first products need comes first.
    head = head_kv * context.ratio
    _load_keys(context, tma_k, gK, shared.sK, 0)
    _fill_q(context, q_ring, head, queries.first)
    _load_keys(context, tma_v, gV, shared.sV, 1)
    _fill_do(context, do_ring, head, queries.first)
    for i in cutlass.range(context.ratio, unroll=1):
        head = head_kv * context.ratio + i
        start = queries.first + 1 if i == 0 else queries.first
        for block in cutlass.range(start, queries.last, unroll=1):
            _fill_q(context, q_ring, head, block)
            _fill_do(context, do_ring, head, block)
