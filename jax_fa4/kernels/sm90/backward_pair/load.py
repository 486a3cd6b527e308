"""Loads, by one warp: K and V once, and Q, dO and their rows' numbers in rings.

Each CTA loads one half of the columns of Q and dO, that of its rank, for both, when the other says
that it is ready: an arrival of the other's consumers alone might be a phase ahead of this loader.

CONTRACT: for every step of the walk two stages of `q` (half a tile of Q each; the log-sum-exps come
with one of them) and two of `do` (dO and delta) are filled.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int16, Int64

from jax_fa4.kernels.sm90.backward import copies, walk
from jax_fa4.kernels.sm90.backward_pair.config import HALVES, PAIR, TILE_M
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.bulk_copies import load_floats

_FLOAT_BYTES = 4
_BOTH = 0b11  # CTAs, as a mask of ranks


@dataclass(frozen=True)
class Stream:
    """Q with its log-sum-exps, or dO with its deltas."""

    name: str
    gmem: tuple[cute.CopyAtom, cute.Tensor]
    shared: cute.Tensor
    rows: cute.Pointer
    shared_rows: cute.Tensor
    ring: mbarriers.Ring
    turns: mbarriers.Ring  # of the barriers `ready`, one a tile


@cute.jit
def _expect(context, stream, stages, row):
    """Be ready for the half that the other CTA loads, and load the rows' numbers beside it."""
    full, empty = context.barriers[stream.name + "_full"], context.barriers[stream.name + "_empty"]
    rank = context.position.rank
    stage = stages[1][0] if rank == 0 else stages[0][0]
    parity = stages[1][1] if rank == 0 else stages[0][1]
    empty.wait(stage, parity ^ 1)
    size = cute.size_in_bytes(context.dtype, stream.shared[None, None, 0].layout)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, size + TILE_M * _FLOAT_BYTES)
    target = stream.shared_rows.iterator + stages[0][0] * TILE_M
    load_floats(stream.rows + row, target, TILE_M, full.at(stage))
    context.barriers[stream.name + "_ready"].arrive_as_warp_at(stream.turns.stage, 1 - rank)


@cute.jit
def _load_half(context, stream, stages, head, block):
    """Load the half of this CTA's rank, for both."""
    full, empty = context.barriers[stream.name + "_full"], context.barriers[stream.name + "_empty"]
    rank, (tma, tensor) = context.position.rank, stream.gmem
    stage = stages[0][0] if rank == 0 else stages[1][0]
    parity = stages[0][1] if rank == 0 else stages[1][1]
    tile = (TILE_M, cute.size(stream.shared, mode=[1]))
    tiles = cute.local_tile(tensor[None, None, head, context.position.batch], tile, (None, rank))
    source, destination = copies.partition(tma, tiles, stream.shared)
    empty.wait(stage, parity ^ 1)
    with cute.arch.elect_one():
        size = cute.size_in_bytes(context.dtype, stream.shared[None, None, 0].layout)
        full.arrive_with_bytes(stage, size)
    mbarriers.wait_stage(context.barriers[stream.name + "_ready"], stream.turns)
    target, bar = destination[None, stage], full.at(stage)
    cute.copy(tma, source[None, block], target, tma_bar_ptr=bar, mcast_mask=Int16(_BOTH))


@cute.jit
def _fill_tile(context, stream, head, block):
    """Load a tile with the other CTA."""
    rows = (Int64(context.position.batch) * context.heads_q + head) * context.rows_padded
    row = cute.assume(rows + block * TILE_M, divby=TILE_M)
    stages = mbarriers.take(stream.ring, HALVES)
    _expect(context, stream, stages, row)
    _load_half(context, stream, stages, head, block)
    mbarriers.advance(stream.turns)


@cute.jit
def run(context) -> None:
    """Load all that this CTA reads; see the contract above. What is wanted first comes first."""
    shared, gmem, position, config = context.shared, context.gmem, context.position, context.config
    q_ring, do_ring = mbarriers.make_ring(config.q_stages), mbarriers.make_ring(config.do_stages)
    turns = [mbarriers.make_ring(PAIR) for _ in range(2)]
    q = Stream("q", gmem.q, shared.sQ, gmem.lse_log2, shared.sLSE, q_ring, turns[0])
    do = Stream("do", gmem.do, shared.sdO, gmem.delta, shared.sDelta, do_ring, turns[1])

    head, block = walk.first_step(context)
    copies.load_keys(context, gmem.k, shared.sK, 0, position.key_block, 0)
    _fill_tile(context, q, head, block)
    copies.load_keys(context, gmem.v, shared.sV, 1, position.key_block, 0)
    _fill_tile(context, do, head, block)
    # This CTA makes the columns of dQ that its rank says, over the other's keys too.
    other = position.key_block + 1 - 2 * position.rank
    copies.load_keys(context, gmem.other_k, shared.sOtherK, 2, other, position.rank)
    for _ in cutlass.range(1, walk.steps(context), unroll=1):
        head, block = walk.next_step(context, head, block)
        _fill_tile(context, q, head, block)
        _fill_tile(context, do, head, block)
