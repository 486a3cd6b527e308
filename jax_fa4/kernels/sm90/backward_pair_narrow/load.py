"""Loads, by one warp: K and V once, and Q, dO and their rows' numbers in rings.

CONTRACT: for every step of the walk one stage of `q` (Q and lse_log2) and one of `do` (dO and
delta) is filled, as many steps ahead of dQ as the ring has stages. Rank 0 loads Q for both CTAs,
rank 1 dO, when consumers of both have freed the stage; each loads the rows' numbers for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int16, Int32, Int64

from jax_fa4.kernels.sm90.backward import copies, walk
from jax_fa4.kernels.sm90.backward_pair_narrow.config import (
    DO_RANK,
    Q_RANK,
    TILE_M,
)
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.bulk_copies import load_floats

_FLOAT_BYTES = 4
_BOTH = 0b11  # CTAs, as a mask of ranks


@dataclass(frozen=True)
class Stream:
    """Q with its log-sum-exps, or dO with its deltas, and the next step of the walk."""

    name: str
    rank: int  # of the CTA that loads the tiles
    gmem: tuple[cute.CopyAtom, cute.Tensor]
    shared: cute.Tensor
    rows: cute.Pointer
    shared_rows: cute.Tensor
    ring: mbarriers.Ring
    step: cute.Tensor


@cute.jit
def _fill(context, stream, head, block):
    """Load a tile, and its rows' numbers, into the ring's next stage."""
    full, empty = context.barriers[stream.name + "_full"], context.barriers[stream.name + "_empty"]
    tma, tensor = stream.gmem
    batch, stage = context.position.batch, stream.ring.stage
    tile = (TILE_M, cute.size(stream.shared, mode=[1]))
    tiles = cute.local_tile(tensor[None, None, head, batch], tile, (None, 0))
    source, destination = copies.partition(tma, tiles, stream.shared)
    rows = (Int64(batch) * context.heads_q + head) * context.rows_padded
    row = cute.assume(rows + block * TILE_M, divby=TILE_M)
    mbarriers.wait_stage(empty, stream.ring, producer=True)
    size = cute.size_in_bytes(context.dtype, destination[None, 0].layout)
    bar = full.at(stage)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, size + TILE_M * _FLOAT_BYTES)
    load_floats(stream.rows + row, stream.shared_rows.iterator + stage * TILE_M, TILE_M, bar)
    if context.position.rank == stream.rank:
        freed = context.barriers[stream.name + "_freed"]
        mbarriers.wait_stage(freed, stream.ring, producer=True)
        target = destination[None, stage]
        cute.copy(tma, source[None, block], target, tma_bar_ptr=bar, mcast_mask=Int16(_BOTH))
    mbarriers.advance(stream.ring)


def make_loader(context) -> tuple[Stream, Stream]:
    """Q and dO, each at the walk's first step and as far ahead as it has stages."""
    config, shared, gmem = context.config, context.shared, context.gmem
    steps = []
    for _ in range(2):
        step = cute.make_rmem_tensor(2, Int32)
        step[0], step[1] = walk.first_step(context)
        steps.append(step)
    q_ring, do_ring = mbarriers.make_ring(config.q_stages), mbarriers.make_ring(config.do_stages)
    return (
        Stream("q", Q_RANK, gmem.q, shared.sQ, gmem.lse_log2, shared.sLSE, q_ring, steps[0]),
        Stream("do", DO_RANK, gmem.do, shared.sdO, gmem.delta, shared.sDelta, do_ring, steps[1]),
    )


@cute.jit
def _next(context, stream, number):
    """Load step `number` of the walk, which is the stream's next, if there is one."""
    step = stream.step
    if number < walk.steps(context):
        _fill(context, stream, step[0], step[1])
        head, block = walk.next_step(context, step[0], step[1])
        step[0] = head
        step[1] = block


@cute.jit
def start(context, loader) -> None:
    """Load K and V, and as many steps as there are stages; what is wanted first comes first."""
    config, shared, gmem, position = context.config, context.shared, context.gmem, context.position
    q, do = loader
    copies.load_keys(context, gmem.k, shared.sK, 0, position.key_block, 0)
    _next(context, q, 0)
    copies.load_keys(context, gmem.v, shared.sV, 1, position.key_block, 0)
    _next(context, do, 0)
    # This CTA makes the columns of dQ that its rank says, over the other's keys too.
    other = position.key_block + 1 - 2 * position.rank
    copies.load_keys(context, gmem.other_k, shared.sOtherK, 2, other, position.rank)
    for i in cutlass.range_constexpr(1, config.q_stages):
        _next(context, q, i)
    for i in cutlass.range_constexpr(1, config.do_stages):
        _next(context, do, i)


@cute.jit
def go_on(context, loader, number) -> None:
    """Load what may come into the stages of step `number` of the walk, which dQ is done with."""
    q, do = loader
    _next(context, do, number + context.config.do_stages)
    _next(context, q, number + context.config.q_stages)


@cute.jit
def run(context) -> None:
    """Load all, as a warp that has nothing else to do."""
    loader = make_loader(context)
    start(context, loader)
    for i in cutlass.range(walk.steps(context), unroll=1):
        go_on(context, loader, i)
