"""What decoding means: the plain definition, for tests and documentation.

It gathers the whole cache and holds all scores at once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_fa4.ops.decode.plan import DecodePlan, Operands


def attention(
    plan: DecodePlan, x: Operands, *, dtype: DTypeLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) and lse (B, Hq, Sq); query i of sequence b is at lengths[b] - Sq + i.

    With `dtype` everything is computed and returned in it. Without, it is the plain computation
    in the precision of the inputs: products accumulate and softmax runs in float32, probabilities
    and results round to the inputs' dtype.
    """
    keys, values = gathered(x.k, x.page_table), gathered(x.v, x.page_table)
    keep = kept(plan, x)
    # What no query sees may be anything, NaN among it.
    values = jnp.where(keep.any(axis=1)[..., None, None], values, 0)
    groups = x.q.shape[2] // keys.shape[2]
    q, keys, values = (a.astype(dtype or a.dtype) for a in (x.q, keys, values))
    keys, values = (jnp.repeat(a, groups, axis=2) for a in (keys, values))
    scores = _product("bihd,bjhd->bhij", q, keys) * plan.softmax_scale
    if plan.softcap:
        scores = plan.softcap * jnp.tanh(scores / plan.softcap)
    scores = jnp.where(keep[:, None], scores, -jnp.inf)
    if x.sinks is not None:  # a key of its own, whose value is 0
        sink = x.sinks.astype(scores.dtype)[None, :, None, None]
        scores = jnp.concatenate([scores, jnp.broadcast_to(sink, (*scores.shape[:3], 1))], axis=3)
        values = jnp.pad(values, [(0, 0), (0, 1), (0, 0), (0, 0)])
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    weights = jnp.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    divisor = jnp.where(total == 0, 1.0, total)
    out = _product("bhij,bjhd->bihd", (weights / divisor).astype(values.dtype), values)
    lse = jnp.where(total == 0, -jnp.inf, jnp.log(divisor) + peak)
    return out.astype(q.dtype), lse[..., 0]


def gathered(cache: jax.Array, page_table: jax.Array | None) -> jax.Array:
    """The cache as (B, S, Hkv, D); ids of pages out of range are clamped."""
    if page_table is None:
        return cache
    pages = jnp.take(cache, page_table, axis=0, mode="clip")
    return pages.reshape(page_table.shape[0], -1, *cache.shape[2:])


def kept(plan: DecodePlan, x: Operands) -> jax.Array:
    """(B, Sq, S): whether query i of a sequence sees key j."""
    lengths = jnp.clip(x.lengths, 0, x.capacity)[:, None, None]
    positions = lengths - x.q.shape[1] + jnp.arange(x.q.shape[1])[None, :, None]
    j = jnp.arange(x.capacity)[None, None, :]
    keep = (j - positions >= plan.band.lower) & (j - positions <= plan.band.upper)
    return keep & (j < lengths) & (positions >= 0)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype)
