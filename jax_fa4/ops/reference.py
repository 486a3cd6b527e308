"""What attention means: the plain definition, for tests and documentation.

It holds all scores at once and is what every path is tested against.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_fa4.ops.band import FULL, Band


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    softmax_scale: float,
    band: Band = FULL,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out = softmax(softmax_scale * Q K^T + bias, over kept keys) V, and its log-sum-exp.

    q is (B, Sq, Hq, D); k and v are (B, Sk, Hkv, D), and query head h uses key head
    h // (Hq // Hkv). bias and mask (True keeps) broadcast to (B, Hq, Sq, Sk). Returns
    out (B, Sq, Hq, D) and lse (B, Hq, Sq); a row that keeps no key has out 0, lse -inf.

    With `dtype` everything is computed and returned in it. Without, it is the plain
    computation in the precision of the inputs: products accumulate and softmax runs in
    float32, while probabilities and results round to the inputs' dtype; lse is float32.
    """
    product = dtype if dtype is not None else jnp.promote_types(q.dtype, jnp.float32)
    if dtype is not None:
        q, k, v = (x.astype(dtype) for x in (q, k, v))
    groups = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    scores = jnp.einsum("bihd,bjhd->bhij", q, k, preferred_element_type=product) * softmax_scale
    if bias is not None:
        scores = scores + bias.astype(product)
    keep = kept(band, q.shape[1], k.shape[1])[None, None]
    if mask is not None:
        keep = keep & mask
    scores = jnp.where(keep, scores, -jnp.inf)
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    peak = jax.lax.stop_gradient(jnp.where(jnp.isneginf(peak), 0.0, peak))
    weights = jnp.where(jnp.isneginf(scores), 0.0, jnp.exp(scores - peak))
    total = weights.sum(axis=-1, keepdims=True)
    empty = total == 0
    probabilities = weights / jnp.where(empty, 1.0, total)
    out = jnp.einsum(
        "bhij,bjhd->bihd", probabilities.astype(v.dtype), v, preferred_element_type=product
    ).astype(v.dtype)
    lse = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + peak)
    return out, lse[..., 0]


def kept(band: Band, query_length: int, key_length: int) -> jax.Array:
    """The band as a boolean matrix (query_length, key_length), True where row i sees key j."""
    offset = jnp.arange(key_length)[None, :] - jnp.arange(query_length)[:, None]
    return (offset >= band.lower) & (offset <= band.upper)
