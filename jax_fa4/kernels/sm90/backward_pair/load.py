"""Loads, by one warp: K and V once, and Q, dO and their rows' numbers in rings.

CONTRACT: for every step of the walk two stages of `q` (half a tile of Q each; the log-sum-exps come
with the first) and two of `do` (dO and delta) are filled.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int64
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm90.backward import walk
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, TILE_M, TILE_N
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


@cute.jit
def _load_keys(context, gmem, shared, which: int, block, column):
    """Load a tile of 64 keys, of K or V, onto one barrier."""
    tma, tensor = gmem
    barriers, position = context.barriers["kv_full"], context.position
    tile = (TILE_N, cute.size(shared, mode=[1]))
    rows = tensor[None, None, position.head_kv, position.batch]
    source, destination = _partition(tma, cute.local_tile(rows, tile, (None, column)), shared)
    with cute.arch.elect_one():
        barriers.arrive_with_bytes(which, cute.size_in_bytes(context.dtype, shared.layout))
    cute.copy(tma, source[None, block], destination[None, 0], tma_bar_ptr=barriers.at(which))


@dataclass(frozen=True)
class Stream:
    """Q with its log-sum-exps, or dO with its deltas."""

    name: str
    gmem: tuple[cute.CopyAtom, cute.Tensor]
    shared: cute.Tensor
    rows: cute.Pointer
    shared_rows: cute.Tensor
    ring: mbarriers.Ring


def _fill(context, stream, source, half: int, row) -> None:
    """Load half a tile, and with the first one its rows' numbers, into the ring's next stage."""
    full, empty = context.barriers[stream.name + "_full"], context.barriers[stream.name + "_empty"]
    stage = stream.ring.stage
    mbarriers.wait_stage(empty, stream.ring, producer=True)
    destination = source[1]
    size = cute.size_in_bytes(context.dtype, destination[None, 0].layout)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, size + (TILE_M * _FLOAT_BYTES if half == 0 else 0))
    tma, bar = stream.gmem[0], full.at(stage)
    cute.copy(tma, source[0], destination[None, stage], tma_bar_ptr=bar)
    if half == 0:
        load_floats(stream.rows + row, stream.shared_rows.iterator + stage * TILE_M, TILE_M, bar)
    mbarriers.advance(stream.ring)


@cute.jit
def _fill_tile(context, stream, head, block):
    """Load a tile, half after half."""
    batch, tensor = context.position.batch, stream.gmem[1]
    rows = (Int64(batch) * context.heads_q + head) * context.rows_padded
    row = cute.assume(rows + block * TILE_M, divby=TILE_M)
    tile = (TILE_M, context.config.half)
    for half in cutlass.range_constexpr(HALVES):
        tiles = cute.local_tile(tensor[None, None, head, batch], tile, (None, half))
        source, destination = _partition(stream.gmem[0], tiles, stream.shared)
        _fill(context, stream, (source[None, block], destination), half, row)


@cute.jit
def run(context) -> None:
    """Load all that this CTA reads; see the contract above. What is wanted first comes first."""
    shared, gmem, position, config = context.shared, context.gmem, context.position, context.config
    q_ring, do_ring = mbarriers.make_ring(config.q_stages), mbarriers.make_ring(config.do_stages)
    q = Stream("q", gmem.q, shared.sQ, gmem.lse_log2, shared.sLSE, q_ring)
    do = Stream("do", gmem.do, shared.sdO, gmem.delta, shared.sDelta, do_ring)

    head, block = walk.first_step(context)
    _load_keys(context, gmem.k, shared.sK, 0, position.key_block, 0)
    _fill_tile(context, q, head, block)
    _load_keys(context, gmem.v, shared.sV, 1, position.key_block, 0)
    _fill_tile(context, do, head, block)
    # This CTA makes the columns of dQ that its rank says, over the other's keys too.
    other = position.key_block + 1 - 2 * position.rank
    _load_keys(context, gmem.other_k, shared.sOtherK, 2, other, position.rank)
    for _ in cutlass.range(1, walk.steps(context), unroll=1):
        head, block = walk.next_step(context, head, block)
        _fill_tile(context, q, head, block)
        _fill_tile(context, do, head, block)
