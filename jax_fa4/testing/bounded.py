"""Problems of bounded kernels, and their definition in float64 and in the inputs' precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jax_fa4.ffi.backward import Operands
from jax_fa4.ops.band import FULL
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.testing import expected
from jax_fa4.testing.exact import Arrays
from jax_fa4.testing.exact import exact as in_float64
from jax_fa4.testing.inputs import Inputs

KINDS = (
    "full",
    "causal",
    "window",
    "random",
    "documents",
    "causal-documents",
    "lengths",
    "ids",
    "uneven",
    "apart",
    "reversed",
)


_sees = jax.jit(KeyBounds.sees)


@dataclass(frozen=True)
class Case:
    """`kind` is who sees what; heads share a key head; 0 is no soft cap."""

    kind: str
    lengths: tuple[int, int]
    dims: tuple[int, int]
    heads: tuple[int, int] = (2, 1)
    batch: int = 2
    softcap: float = 0.0
    peak: float = 1.0  # what queries are multiplied by: scores that reach a soft cap
    seed: int = 0

    @property
    def scale(self) -> float:
        return float(self.dims[0] ** -0.5)


def bounds(case: Case) -> KeyBounds:
    """Who sees what, clipped to the keys that there are."""
    random = np.random.default_rng(case.seed)
    (rows, keys), batch = case.lengths, case.batch
    i = np.broadcast_to(np.arange(rows), (batch, rows))
    first, last = np.zeros((batch, rows), int), np.full((batch, rows), keys - 1)
    query_ids, key_ids = np.zeros((batch, rows), int), np.zeros((batch, keys), int)
    match case.kind:
        case "causal":
            last = i + keys - rows
        case "window":
            first, last = i - 70, i + 11
        case "random":
            first = random.integers(-3, keys + 2, (batch, rows))
            last = first + random.integers(-2, max(keys // 2, 2), (batch, rows))
            query_ids, key_ids = (random.integers(0, 3, x.shape) // 2 for x in (i, key_ids))
        case "documents" | "causal-documents":
            for b in range(batch):
                ends = np.sort(random.integers(0, min(rows, keys), 3))
                query_ids[b] = np.searchsorted(ends, np.arange(rows), side="right") - 1
                key_ids[b] = np.searchsorted(ends, np.arange(keys), side="right") - 1
                first[b] = np.array([0, *ends])[query_ids[b] + 1]
                last[b] = np.array([*ends, keys])[query_ids[b] + 1] - 1
            last = np.minimum(last, i) if case.kind == "causal-documents" else last
        case "lengths":
            used = random.integers(0, (rows + 1, keys + 1), (batch, 2))
            last = np.where(i < used[:, :1], used[:, 1:] - 1, -1)
        case "uneven":  # of each two groups of 64, one sees few keys of the other's many
            last = np.where(i // 64 % 4 == 0, 10, last)
            first = np.where(i // 64 % 4 == 2, keys - 10, first)
        case "apart":  # by 128 rows the last keys or the first ones, with nothing between
            late = i // 128 % 2 == 0
            first, last = np.where(late, keys - 20, 0), np.where(late, keys - 1, 10)
        case "reversed":  # the first rows see the last keys
            first, last = keys - 21 - i, keys - 1 - i
        case "ids":  # in no order: hardly a block is seen whole, and every one by somebody
            query_ids, key_ids = (random.integers(-1, 2, x.shape) for x in (i, key_ids))
    first, last = np.maximum(first, 0), np.minimum(last, keys - 1)
    return KeyBounds(*(jnp.asarray(x, jnp.int32) for x in (first, last, query_ids, key_ids)))


def make(case: Case, dtype: DTypeLike) -> tuple[Operands, KeyBounds]:
    """Inputs, with what the forward left for the backward, and bounds."""
    random = np.random.default_rng(case.seed + 1)
    (rows, keys), (d, d_v), (heads, heads_kv) = case.lengths, case.dims, case.heads
    shapes = [(rows, heads, d), (keys, heads_kv, d), (keys, heads_kv, d_v), (rows, heads, d_v)]
    drawn = [random.standard_normal((case.batch, *shape)) for shape in shapes]
    q, k, v, dout = (jnp.asarray(x, dtype) for x in (drawn[0] * case.peak, *drawn[1:]))
    dlse = jnp.asarray(random.standard_normal((case.batch, heads, rows)), jnp.float32)
    visible = bounds(case)
    operands = Operands(q, k, v, q, dout, dlse, dlse)
    found = definition(case, operands, visible, exact=True)
    out, lse = jnp.asarray(found["out"], dtype), jnp.asarray(found["lse"], jnp.float32)
    return operands._replace(out=out, lse=lse), visible


def definition(case: Case, operands: Operands, visible: KeyBounds, *, exact: bool) -> Arrays:
    """out, lse and gradients; if `exact` in float64 with sums of absolute terms (testing.exact).

    Else by the plain formulas in the inputs' precision.
    """
    x = Inputs(operands.q, operands.k, operands.v, operands.dout, operands.dlse)
    options: dict[str, Any] = {
        "softmax_scale": case.scale,
        "band": FULL,
        "mask": _sees(visible)[:, None],
        "softcap": case.softcap,
    }
    return in_float64(x, **options) if exact else expected.plain(x, gradients=True, **options)
