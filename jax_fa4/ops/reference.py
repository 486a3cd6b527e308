"""What attention means: the plain definition, for tests and documentation.

It holds all scores at once and is what every path is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.key_bounds import KeyBounds

Descales = tuple[jax.Array, ...]  # of query, key and value

_FP8_PEAK = 2.0**8  # what the largest P of a row rounds as; e4m3 ends at 448


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    softmax_scale: float,
    band: Band = FULL,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    bounds: KeyBounds | None = None,
    descales: Descales | None = None,
    softcap: float = 0.0,
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    dropped: jax.Array | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out = softmax(softmax_scale * Q K^T + bias, over kept keys) V, and its log-sum-exp.

    q is (B, Sq, Hq, D), k (B, Sk, Hkv, D) and v (B, Sk, Hkv, Dv), and query head h uses key
    head h // (Hq // Hkv). bias and mask (True keeps) broadcast to (B, Hq, Sq, Sk); `bounds` are
    a mask, too. Returns out (B, Sq, Hq, Dv) and lse (B, Hq, Sq); a row that keeps no key has
    out 0, lse -inf.
    With `softcap` the products S become softcap * tanh(S / softcap), before bias and masks.
    With `score_mod` the biased ones then become score_mod(S, b, h, i, j), and with `mask_mod` keys
    are kept where mask_mod(b, h, i, j), too: functions of scalars. Under dropout probabilities are
    multiplied by `dropped` (B, Hq, Sq, Sk), 0 or 1 / (1 - rate), and lse is without.

    With `dtype` everything is computed and returned in it. Without, it is the plain
    computation in the precision of the inputs: products accumulate and softmax runs in
    float32, while probabilities and results round to the inputs' dtype; lse is float32.

    With float8_e4m3fn, and `descales` (query, key, value) of shape (B, Hkv), it is the attention
    of the arrays times their descales; out is bfloat16. Of P, a row's exp(S - max) times 2^8
    round to e4m3, before the division by their sum: the largest is then near the end of its
    range, and less is lost at the other.
    """
    rounds_to_fp8 = dtype is None and str(v.dtype) == "float8_e4m3fn"
    if dtype is not None or rounds_to_fp8:
        q, k, v = (x.astype(dtype or jnp.bfloat16) for x in (q, k, v))
    if bounds is not None:
        mask = bounds.sees()[:, None] if mask is None else mask & bounds.sees()[:, None]
    groups = q.shape[2] // v.shape[2]
    if descales is not None:
        wide = jnp.promote_types(q.dtype, jnp.float32)
        query, key, value = (x.astype(wide).repeat(groups, 1) for x in descales)
        scale: float | jax.Array = (query * key * softmax_scale)[:, :, None, None]
    else:
        scale = softmax_scale
    scores = _biased(_capped(_products(q, k, scale), softcap), bias)
    places = jnp.indices(scores.shape)
    if score_mod is not None:
        scores = jnp.vectorize(score_mod)(scores, *places)
    if mask_mod is not None:
        keep = jnp.vectorize(mask_mod)(*places)
        mask = keep if mask is None else mask & keep
    scores = _masked(scores, band, mask)
    v = jnp.repeat(v, groups, axis=2)
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    peak = jax.lax.stop_gradient(jnp.where(jnp.isneginf(peak), 0.0, peak))
    weights = jnp.where(jnp.isneginf(scores), 0.0, jnp.exp(scores - peak))
    total = weights.sum(axis=-1, keepdims=True)
    empty = total == 0
    divisor = jnp.where(empty, 1.0, total)
    weights = weights if dropped is None else weights * dropped
    if rounds_to_fp8:
        rounded = (weights * _FP8_PEAK).astype(jnp.float8_e4m3fn).astype(jnp.float32)
        out = _product("bhij,bjhd->bhid", rounded, v.astype(jnp.float32)) / (divisor * _FP8_PEAK)
        out = out.swapaxes(1, 2)
    else:
        out = _product("bhij,bjhd->bihd", (weights / divisor).astype(v.dtype), v)
    out = (out if descales is None else out * value[:, None, :, None]).astype(v.dtype)
    lse = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + peak)
    return out, lse[..., 0]


def gradients(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    dlse: jax.Array,
    *,
    softmax_scale: float,
    band: Band = FULL,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    softcap: float = 0.0,
) -> tuple[jax.Array, ...]:
    """dq, dk, dv, and dbias if there is a bias, by FlashAttention's formulas on all scores.

    P = exp(S - lse), dP = dO V^T, dS = P * (dP - rowsum(dO * O) + dlse), dV = P^T dO,
    dQ = softmax_scale dS K, dK = softmax_scale dS^T Q; with `softcap` these two are of
    dS (1 - (S / softcap)^2), S before bias. P and dS round to the inputs' dtype
    before a product, as they do in kernels; sums are float32.
    """
    groups = q.shape[2] // k.shape[2]
    capped = _capped(_products(q, k, softmax_scale), softcap)
    scores = _masked(_biased(capped, bias), band, mask)
    keys, values = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    weights = jnp.exp(scores - jnp.where(jnp.isneginf(lse), jnp.inf, lse)[..., None])
    delta = _product("bihd,bihd->bhi", out, dout) - dlse
    dscores = weights * (_product("bihd,bjhd->bhij", dout, values) - delta[..., None])
    dproducts = dscores * (1 - (capped / softcap) ** 2) if softcap else dscores
    weights, rounded = weights.astype(q.dtype), dproducts.astype(q.dtype)
    dq = _product("bhij,bjhd->bihd", rounded, keys) * softmax_scale
    dk = _product("bhij,bihd->bjhd", rounded, q) * softmax_scale
    dv = _product("bhij,bihd->bjhd", weights, dout)
    dk, dv = (x.reshape(*k.shape[:3], groups, -1).sum(axis=3) for x in (dk, dv))
    found = (dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype))
    if bias is None:
        return found
    axes = tuple(a for a in range(4) if bias.shape[a] == 1)
    return (*found, dscores.sum(axis=axes, keepdims=True).astype(bias.dtype))


def kept(band: Band, query_length: int, key_length: int) -> jax.Array:
    """The band as a boolean matrix (query_length, key_length), True where row i sees key j."""
    offset = jnp.arange(key_length)[None, :] - jnp.arange(query_length)[:, None]
    return (offset >= band.lower) & (offset <= band.upper)


def _products(q: jax.Array, k: jax.Array, softmax_scale: float | jax.Array) -> jax.Array:
    """(B, Hq, Sq, Sk): Q K^T, scaled."""
    k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    return _product("bihd,bjhd->bhij", q, k) * softmax_scale


def _capped(scores: jax.Array, softcap: float) -> jax.Array:
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _biased(scores: jax.Array, bias: jax.Array | None) -> jax.Array:
    return scores if bias is None else scores + bias.astype(scores.dtype)


def _masked(scores: jax.Array, band: Band, mask: jax.Array | None) -> jax.Array:
    """With -inf where a row does not see a key."""
    keep = kept(band, *scores.shape[2:])[None, None]
    return jnp.where(keep if mask is None else keep & mask, scores, -jnp.inf)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype)
