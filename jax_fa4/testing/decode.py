"""Problems of decoding, their seeded inputs, and what they should give in numpy float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jax_fa4.ops.band import Band, Window
from jax_fa4.ops.decode.plan import DecodePath, DecodePlan, Operands
from jax_fa4.ops.decode.reference import attention
from jax_fa4.testing.exact import Arrays


@dataclass(frozen=True, kw_only=True)
class DecodeCase:
    """One problem: `lengths` has one sequence an entry; `page_size` 0 is a contiguous cache.

    `capacity` is the keys that the cache holds of a sequence, rounded up to whole pages.
    """

    lengths: tuple[int, ...]
    capacity: int
    queries: int = 1
    heads: int = 2
    heads_kv: int = 1
    head_dim: int = 64
    head_dim_v: int = 0
    page_size: int = 0
    causal: bool = True
    window: Window = (None, None)
    softcap: float = 0.0
    sinks: bool = False
    softmax_scale: float | None = None
    seed: int = 0

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    @property
    def plan(self) -> DecodePlan:
        band = Band.make(0, 0, causal=self.causal, window=self.window)
        return DecodePlan(
            softmax_scale=self.scale, band=band, path=DecodePath("a test"), softcap=self.softcap
        )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of decode_attention that are no arrays."""
        return {
            "softmax_scale": self.scale,
            "causal": self.causal,
            "window_size": self.window,
            "softcap": self.softcap,
            "return_lse": True,
        }


def make(case: DecodeCase, dtype: DTypeLike) -> Operands:
    """Normal inputs. All that no query may see is NaN: rows, pages, and tables point nowhere."""
    generator = np.random.default_rng([case.seed, *map(abs, case.lengths)])
    batch, width_v = len(case.lengths), case.head_dim_v or case.head_dim
    unit = case.page_size or case.capacity
    pages = -(-case.capacity // unit)
    q = generator.standard_normal((batch, case.queries, case.heads, case.head_dim))
    caches = [
        generator.standard_normal((batch, pages * unit, case.heads_kv, width), np.float32)
        for width in (case.head_dim, width_v)
    ]
    seen = np.asarray(_seen(case, pages * unit).any(axis=1))
    for cache in caches:
        cache[~seen] = np.nan
    table = None
    if case.page_size:
        caches, table = _scatter_pages(generator, caches, seen, case.page_size)
    arrays = [jnp.asarray(x, jnp.float32).astype(dtype) for x in (q, *caches)]
    sinks = generator.standard_normal(case.heads) * 2 if case.sinks else None
    return Operands(
        arrays[0],
        arrays[1],
        arrays[2],
        jnp.asarray(case.lengths, jnp.int32),
        None if table is None else jnp.asarray(table, jnp.int32),
        None if sinks is None else jnp.asarray(sinks, jnp.float32),
    )


def exact(case: DecodeCase, x: Operands) -> Arrays:
    """out and lse in float64, with the sizes of their terms, as `testing.exact` has them.

    Head by head over the keys that are seen, so that long caches take seconds and little memory.
    """
    q, k, v = map(np.asarray, x[:3])
    if x.page_table is not None:
        pages = np.clip(np.asarray(x.page_table), 0, k.shape[0] - 1)
        k, v = (a[pages].reshape(q.shape[0], -1, *a.shape[2:]) for a in (k, v))
    seen = _seen(case, k.shape[1])
    sinks = np.full(case.heads, -np.inf) if x.sinks is None else np.asarray(x.sinks, np.float64)
    ratio = case.heads // case.heads_kv
    out = np.zeros((*q.shape[:3], v.shape[3]))
    lse = np.zeros((q.shape[0], case.heads, case.queries))
    out_terms, lse_terms = [0.0], [0.0]
    for b, g in np.ndindex(q.shape[0], case.heads_kv):
        heads = slice(g * ratio, (g + 1) * ratio)
        found = np.flatnonzero(seen[b].any(axis=0))
        keys = slice(found[0], found[-1] + 1) if found.size else slice(0)
        part = _head(
            case, q[b, :, heads], k[b, keys, g], v[b, keys, g], seen[b, :, keys], sinks[heads]
        )
        out[b, :, heads], lse[b, heads] = part["out"], part["lse"]
        out_terms.append(float(part["out_terms"]))
        lse_terms.append(float(part["lse_terms"]))
    return {
        "out": out,
        "out_terms": np.array(max(out_terms)),
        "lse": lse,
        "lse_terms": np.array(max(lse_terms)),
    }


def _head(case: DecodeCase, q: Any, k: Any, v: Any, seen: np.ndarray, sinks: np.ndarray) -> Arrays:
    """One KV head of one sequence: q (Sq, G, D), k and v (keys, ...), seen (Sq, keys)."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    q = np.swapaxes(q, 0, 1)
    scores = (q @ k.T) * case.scale
    if case.softcap:
        scores = case.softcap * np.tanh(scores / case.softcap)
    scores = np.where(seen, scores, -np.inf)
    sink = sinks[:, None, None]
    peak = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    weights = np.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True) + np.exp(sink - peak)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + peak)[..., 0]
    p = weights / np.where(total == 0, 1.0, total)
    score_terms = case.scale * (np.abs(q) @ np.abs(k).T)
    return {
        "out": np.swapaxes(p @ v, 0, 1),
        "out_terms": (p @ np.abs(v)).max(initial=0.0),
        "lse": lse,
        "lse_terms": (p * score_terms).sum(axis=-1).max(initial=0.0),
    }


def plain(case: DecodeCase, x: Operands) -> Arrays:
    """The plain computation in the precision of the inputs."""
    out, lse = jax.jit(attention, static_argnums=0)(case.plan, x)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


def _seen(case: DecodeCase, capacity: int) -> np.ndarray:
    """(B, Sq, S): whether a query sees a key."""
    lengths = np.clip(np.array(case.lengths, np.int64), 0, capacity)[:, None, None]
    positions = lengths - case.queries + np.arange(case.queries)[None, :, None]
    offset = np.arange(capacity)[None, None] - positions
    left, right = case.window
    seen = (positions >= 0) & (np.arange(capacity)[None, None] < lengths)
    if left is not None:
        seen &= offset >= -left
    if right is not None:
        seen &= offset <= right
    if case.causal:
        seen &= offset <= 0
    return seen


def _scatter_pages(
    generator: np.random.Generator, caches: list[np.ndarray], seen: np.ndarray, page_size: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """The caches as pages in random order among unused ones, and the table that finds them."""
    batch, capacity = seen.shape
    pages = capacity // page_size
    used = seen.reshape(batch, pages, page_size).any(axis=2)
    total = int(used.sum()) + 3
    places = generator.permutation(total)[: int(used.sum())]
    table = generator.integers(-(2**31), 2**31, (batch, pages))
    table[used] = places
    found = []
    for cache in caches:
        pool = np.full((total, page_size, *cache.shape[2:]), np.nan, np.float32)
        pool[places] = cache.reshape(batch, pages, page_size, *cache.shape[2:])[used]
        found.append(pool)
    return found, table
