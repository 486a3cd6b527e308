"""Which form of a Blackwell forward kernel a call runs on: the one of least modelled time.

Every form gives the same results; they differ in how many rows of queries a unit of work has,
how many multiprocessors it takes, and what a block of keys costs there. The model:

    cycles of a tile = per_tile + per_block * (blocks of 128 keys that it visits)
    cycles of a call = rounds over the units that the chip holds, where tiles are alike;
                       else, longest first: the mean load of a unit, or the longest tile

It leaves out what all forms share: launch latency, and memory traffic beyond shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from jax_fa4.variants.problem import Call
from jax_fa4.variants.variant import Form, ForwardVariant

_KEYS = 128  # of a block
_MULTIPROCESSORS = 148  # of B200, GB200, B300 and GB300
_BOX_ROWS = 8  # the fewest positions a tile with rows of several heads


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a form's unit of work costs, in cycles of a multiprocessor."""

    rows: int  # of queries, all tiles of the unit together
    multiprocessors: int  # that a unit takes
    per_block: float
    per_tile: float
    packs_heads: bool = False  # rows of a tile may be of several heads of a KV head


# Cycles by the timing model of benchmarks/blackwell on the kernels' own events.
COSTS: dict[tuple[int, int, Form], Cost] = {
    (64, 64, Form.USUAL): Cost(rows=256, multiprocessors=1, per_block=2300, per_tile=3000),
    (64, 64, Form.SPLITKEYS): Cost(
        rows=128, multiprocessors=1, per_block=1200, per_tile=3300, packs_heads=True
    ),
    (128, 128, Form.USUAL): Cost(rows=256, multiprocessors=1, per_block=2960, per_tile=3500),
    (128, 128, Form.SPLITKEYS): Cost(
        rows=128, multiprocessors=1, per_block=1540, per_tile=4000, packs_heads=True
    ),
    (128, 128, Form.PAIR): Cost(rows=512, multiprocessors=2, per_block=2900, per_tile=3700),
    # Not by that model yet: 2048 cycles of products a block (benchmarks/NOTES.md), and a fourth
    # and an eighth more for the 64 and 32 bytes a cycle that L2 must bring.
    (256, 256, Form.USUAL): Cost(
        rows=128, multiprocessors=1, per_block=2560, per_tile=5000, packs_heads=True
    ),
    (256, 256, Form.PAIR): Cost(
        rows=256, multiprocessors=2, per_block=2300, per_tile=5200, packs_heads=True
    ),
}


def cheapest(variants: Iterable[ForwardVariant], call: Call) -> ForwardVariant:
    """The variant of least modelled cycles; of equals, the first."""
    return min(variants, key=lambda variant: cycles(_cost(variant), call))


def cycles(cost: Cost, call: Call) -> float:
    """Modelled cycles of a call."""
    tokens, groups = _packing(cost, call)
    tiles = [
        cost.per_tile + cost.per_block * _blocks(call, row, tokens)
        for row in range(0, call.seqlen_q, tokens)
    ]
    copies = call.batch * groups
    units = _MULTIPROCESSORS // cost.multiprocessors
    if min(tiles) == max(tiles):
        return math.ceil(len(tiles) * copies / units) * tiles[0]
    return max(sum(tiles) * copies / units, max(tiles))


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
