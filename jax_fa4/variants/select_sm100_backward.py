"""Which form of a Blackwell backward kernel a call runs on: the one of least modelled time.

A pair of CTAs multiplies faster, and adds half as much to dQ; but it takes two multiprocessors,
both of its CTAs visit what the keys of either need, and one idles behind an odd block of keys.

    cycles of a unit = start + per_visit * (blocks of 128 queries that see its keys, of all heads)
    cycles of a call = rounds of units, where all are alike; else their mean load, or the longest
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jax_fa4.variants.problem import Call
from jax_fa4.variants.variant import BackwardVariant, Form

_QUERIES = 128  # of a block
_MULTIPROCESSORS = 148  # of a B200; forms are compared, so other counts change little


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a unit of work costs, in cycles of a multiprocessor."""

    keys: int  # of a unit
    multiprocessors: int  # that a unit takes
    start: float
    per_visit: float


# Cycles by the timing model on the kernels' own events (benchmarks/NOTES.md).
COSTS: dict[tuple[int, int, Form], Cost] = {
    (128, 128, Form.USUAL): Cost(keys=128, multiprocessors=1, start=6132, per_visit=3302),
    (128, 128, Form.PAIR): Cost(keys=256, multiprocessors=2, start=7078, per_visit=2831),
}


def fastest(forms: Sequence[BackwardVariant], call: Call) -> BackwardVariant:
    """The variant of least modelled cycles; the first of equals, or where none has a cost."""
    known = [v for v in forms if (v.head_dim, v.head_dim_v, v.form) in COSTS]
    return min(
        known or forms[:1],
        key=lambda v: cycles(COSTS[v.head_dim, v.head_dim_v, v.form], call) if known else 0.0,
    )


def cycles(cost: Cost, call: Call) -> float:
    """Modelled cycles of a call."""
    ratio = call.heads // call.heads_kv
    units = [
        cost.start + cost.per_visit * ratio * _visits(call, key, cost.keys)
        for key in range(0, call.seqlen_k, cost.keys)
    ]
    places = _MULTIPROCESSORS // cost.multiprocessors
    copies = call.batch * call.heads_kv
    if min(units) == max(units):
        return math.ceil(len(units) * copies / places) * units[0]
    return max(sum(units) * copies / places, max(units))


def _visits(call: Call, key: int, keys: int) -> int:
    """Blocks of queries that see keys [key, key + keys), at least one."""
    last_key = min(key + keys, call.seqlen_k) - 1
    begin = max(key - call.band_upper, 0)
    end = min(last_key - call.band_lower, call.seqlen_q - 1) + 1
    return max(math.ceil(max(end, 0) / _QUERIES) - begin // _QUERIES, 1)
