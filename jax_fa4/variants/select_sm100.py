"""Which form of a Blackwell forward kernel a call runs on: the one of least modelled time.

Every form gives the same results; they differ in how many rows of queries a unit of work has,
how many multiprocessors it takes, and what a block of keys costs there. The model:

    cycles of a tile = first_tile, or next_tile after another of the same CTA
                       + per_block * (blocks of 128 keys that it visits)
    cycles of a call = of the tiles that one unit gets, where all are alike: CTAs then stay;
                       else the mean load of a unit, or the longest tile: each has a CTA of its own,
                       but in the form whose CTAs claim further tiles

It leaves out what all forms share: launch latency, and memory traffic beyond shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jax_fa4.variants.problem import Call
from jax_fa4.variants.variant import Form, ForwardVariant

_KEYS = 128  # of a block
_MULTIPROCESSORS = 148  # of a B200; forms are compared, so other counts change little
_BOX_ROWS = 8  # the fewest positions a tile with rows of several heads


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a form's unit of work costs, in cycles of a multiprocessor."""

    rows: int  # of queries, all tiles of the unit together
    multiprocessors: int  # that a unit takes
    per_block: float
    first_tile: float
    next_tile: float
    packs_heads: bool = False  # rows of a tile may be of several heads of a KV head
    claims_tiles: bool = False  # a CTA has further tiles where they are not alike, too


# Cycles by the timing model (benchmarks/results/blackwell-timing.md) on the kernels' own events.
# The model is off for pairs of CTAs, FlashAttention-4's come out 15 % below
# their published figures: until a chip says otherwise, ours are not chosen at head dim 128 (their
# cycles here are of kernels before; benchmarks/NOTES.md has those of today).
COSTS: dict[tuple[int, int, Form], Cost] = {
    (64, 64, Form.USUAL): Cost(
        rows=256, multiprocessors=1, per_block=2234, first_tile=6371, next_tile=1012
    ),
    (64, 64, Form.SPLITKEYS): Cost(
        rows=128,
        multiprocessors=1,
        per_block=1466,
        first_tile=6010,
        next_tile=620,
        packs_heads=True,
    ),
    (128, 128, Form.USUAL): Cost(
        rows=256, multiprocessors=1, per_block=2201, first_tile=7570, next_tile=1456
    ),
    (128, 128, Form.SPLITKEYS): Cost(
        rows=128,
        multiprocessors=1,
        per_block=1520,
        first_tile=8048,
        next_tile=453,
        packs_heads=True,
    ),
    (128, 128, Form.PAIR): Cost(
        rows=512, multiprocessors=2, per_block=2663, first_tile=8518, next_tile=1383
    ),
    # The model's L2 gives every multiprocessor 64 bytes a cycle: what the usual form takes, and
    # twice what each of a pair does.
    (256, 256, Form.USUAL): Cost(
        rows=128,
        multiprocessors=1,
        per_block=2254,
        first_tile=9946,
        next_tile=2525,
        packs_heads=True,
    ),
    (256, 256, Form.PAIR): Cost(
        rows=256,
        multiprocessors=2,
        per_block=2203,
        first_tile=10381,
        next_tile=2464,
        packs_heads=True,
    ),
}

# Their two forms differ as said below; the rest of these is of causal tiles alone.
COSTS |= {
    (96, 96, Form.USUAL): Cost(
        rows=256, multiprocessors=1, per_block=2260, first_tile=7374, next_tile=1984
    ),
    (192, 128, Form.USUAL): Cost(
        rows=256, multiprocessors=1, per_block=2959, first_tile=9200, next_tile=1762
    ),
}

# (first tile beyond the usual form's, further tile under a causal mask), of CTAs that claim tiles:
# cycles by the same model (benchmarks/blackwell/claims.py). A block costs the same within 1 %.
_CLAIMING: dict[tuple[int, int], tuple[float, float]] = {
    (64, 64): (0, 2185),
    (96, 96): (0, 2218),
    (128, 128): (142, 2672),
    (192, 128): (497, 2355),
}
COSTS |= {
    (d, d_v, Form.DYNAMIC): replace(
        usual,
        first_tile=usual.first_tile + more,
        next_tile=next_tile,
        claims_tiles=True,
    )
    for (d, d_v), (more, next_tile) in _CLAIMING.items()
    for usual in (COSTS[d, d_v, Form.USUAL],)
}


def cheapest(variants: Iterable[ForwardVariant], call: Call) -> ForwardVariant:
    """The variant of least modelled cycles; of equals, the first."""
    return min(variants, key=lambda variant: cycles(_cost(variant), call))


def cycles(cost: Cost, call: Call) -> float:
    """Modelled cycles of a call."""
    tokens, groups = _packing(cost, call)
    blocks = [_blocks(call, row, tokens) for row in range(0, call.seqlen_q, tokens)]
    tiles = len(blocks) * call.batch * groups
    units = _MULTIPROCESSORS // cost.multiprocessors
    if min(blocks) == max(blocks):
        rounds = math.ceil(tiles / units)
        fixed = cost.first_tile + (rounds - 1) * cost.next_tile
        return fixed + rounds * blocks[0] * cost.per_block
    further = cost.next_tile if cost.claims_tiles else cost.first_tile
    mean = further + cost.per_block * sum(blocks) / len(blocks)
    longest = cost.first_tile + cost.per_block * max(blocks)
    return max(cost.first_tile - further + mean * tiles / units, longest)


def _cost(variant: ForwardVariant) -> Cost:
    return COSTS[variant.head_dim, variant.head_dim_v, variant.form]


def _packing(cost: Cost, call: Call) -> tuple[int, int]:
    """Positions of queries a tile has, and tiles a batch element for each such range of them.

    The rule is the kernel's, kernels/toolkit/head_packing.py: the fewest tiles, by powers of two.
    """
    if not cost.packs_heads:
        return cost.rows, call.heads
    ratio = call.heads // call.heads_kv
    tokens = [cost.rows]
    while tokens[-1] > _BOX_ROWS * cost.multiprocessors:
        tokens.append(tokens[-1] // 2)
    groups = {t: math.ceil(ratio / (cost.rows // t)) for t in tokens}
    best = min(tokens, key=lambda t: math.ceil(call.seqlen_q / t) * groups[t])
    return best, groups[best] * call.heads_kv


def _blocks(call: Call, row: int, rows: int) -> int:
    """How many blocks of keys the rows [row, row + rows) visit together, at least one."""
    last_row = min(row + rows, call.seqlen_q) - 1
    end = max(min(last_row + call.band_upper + 1, call.seqlen_k), 0)
    begin = max(row + call.band_lower, 0)
    return max(math.ceil(end / _KEYS) - begin // _KEYS, 1)
