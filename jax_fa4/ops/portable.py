"""Attention in `lax` alone, block by block: O(S) memory forward and backward.

The forward is the online softmax (Milakov and Gimelshein, arXiv:1805.02867; Rabe and
Staats, arXiv:2112.05682); the backward recomputes each block's probabilities from lse
(Dao, arXiv:2307.08691). Scores, softmax and every sum are float32 (float64 for float64
inputs); probabilities and their gradients round to the inputs' dtype before a product.

Arrays are stacks of blocks here, as `grid` lays them out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops.band import Band
from jax_fa4.ops.blocks import walk
from jax_fa4.ops.grid import Grid, Index, dot


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    softmax_scale: float | jax.Array,
    band: Band,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    value_scale: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) in q's dtype and lse (B, Hq, Sq); see `reference.attention`.

    bias and mask are (B or 1, Hq or 1, Sq or 1, Sk or 1). An array as `softmax_scale` is of
    shape (B, Hkv, 1, 1, 1); `value_scale` (B, Hkv) multiplies out before it is rounded.
    """
    if 0 in q.shape or 0 in k.shape:
        return _empty_forward(q, v)
    grid = Grid.make(q, k, softmax_scale, band, bias, mask)
    queries, keys, values = grid.stack_queries(q), grid.stack_keys(k), grid.stack_keys(v)

    def block(row: Index, column: Index) -> tuple[jax.Array, jax.Array, jax.Array]:
        scores = grid.scores(_at(queries, row), _at(keys, column), row, column)
        peak = scores.max(axis=-1)
        weights = jnp.exp(scores - _finite(peak)[..., None])
        value = _at(values, column)
        product = dot("bhgij,bhjd->bhgid", weights.astype(value.dtype), value)
        return product, weights.sum(axis=-1), peak

    if grid.is_one_block:
        product, total, peak = (x[None] for x in block(0, 0))
    else:

        def step(row: jax.Array, column: jax.Array, state: _Sums) -> _Sums:
            return _update(state, row, _merge(_take(state, row), block(row, column)))

        start = grid.like_queries((0.0, v.shape[-1]), (0.0, None), (-jnp.inf, None))
        product, total, peak = walk(grid.spans, step, start)
    seen = total > 0
    out = product / jnp.where(seen, total, 1.0)[..., None]
    if value_scale is not None:
        out = out * value_scale[None, :, :, None, None, None]
    lse = jnp.where(seen, jnp.log(jnp.where(seen, total, 1.0)) + _finite(peak), -jnp.inf)
    return grid.unstack_queries(out).astype(q.dtype), grid.unstack_rows(lse)


def row_delta(out: jax.Array, dout: jax.Array, dlse: jax.Array) -> jax.Array:
    """delta = rowsum(dO * O) - dlse, (B, H, S): what the backward takes from dP of a row."""
    product = jnp.einsum("bshd,bshd->bhs", out.astype(dlse.dtype), dout.astype(dlse.dtype))
    return product - dlse


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    delta: jax.Array,
    *,
    softmax_scale: float,
    band: Band,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Gradients (dq, dk, dv, dbias) from the forward's lse and `row_delta`.

    P = exp(S - lse), dV = P^T dO, dS = P * (dO V^T - delta), dQ = scale dS K,
    dK = scale dS^T Q, dbias = dS summed over the axes along which bias was broadcast.
    Rows that saw no key (lse -inf) contribute nothing, whatever their delta. Without a bias
    dbias is None.
    """
    if 0 in q.shape or 0 in k.shape:
        dbias = None if bias is None else jnp.zeros_like(bias)
        return jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v), dbias
    grid = Grid.make(q, k, softmax_scale, band, bias, mask)
    queries, keys, values = grid.stack_queries(q), grid.stack_keys(k), grid.stack_keys(v)
    douts = grid.stack_queries(dout)
    unseen = jnp.isneginf(lse)
    # exp(S - inf) is 0: rows without keys, and the padding of the tail, drop out.
    lses = grid.stack_rows(jnp.where(unseen, jnp.inf, lse), padding=jnp.inf)
    deltas = grid.stack_rows(jnp.where(unseen, 0.0, delta), padding=0.0)

    def block(row: Index, column: Index) -> tuple[jax.Array, ...]:
        # Keys lead here: two of the three products then take the scores as they lie.
        query, key, value = _at(queries, row), _at(keys, column), _at(values, column)
        dout_block = _at(douts, row)
        scores = grid.scores_by_key(query, key, row, column)
        weights = jnp.exp(scores - _at(lses, row)[:, :, None])
        dweights = dot("bhjd,bhgid->bhjgi", value, dout_block)
        dscores = weights * (dweights - _at(deltas, row)[:, :, None])
        rounded = dscores.astype(query.dtype)
        return (
            dot("bhjgi,bhjd->bhgid", rounded, key),
            dot("bhjgi,bhgid->bhjd", rounded, query),
            dot("bhjgi,bhgid->bhjd", weights.astype(dout_block.dtype), dout_block),
            jnp.moveaxis(dscores, 2, -1),
        )

    if grid.is_one_block:
        dq, dk, dv, dscores = (x[None] for x in block(0, 0))
        dbias = None if grid.bias is None else grid.bias.sum_into_shape(dscores[0])
    else:

        def step(row: jax.Array, column: jax.Array, state: _Gradients) -> _Gradients:
            dq, dk, dv, dbias = state
            dq_part, dk_part, dv_part, dscores = block(row, column)
            if grid.bias is not None:
                dbias = grid.bias.add_block(dbias, dscores, row, column)
            return (
                _add_at(dq, row, dq_part),
                _add_at(dk, column, dk_part),
                _add_at(dv, column, dv_part),
                dbias,
            )

        (dq0,) = grid.like_queries((0.0, q.shape[-1]))
        dk0, dv0 = grid.like_keys(k.shape[-1]), grid.like_keys(v.shape[-1])
        dbias0 = None if grid.bias is None else grid.varying(grid.bias.zeros())
        dq, dk, dv, dbias = walk(grid.spans, step, (dq0, dk0, dv0, dbias0))
    return (
        (grid.unstack_queries(dq) * softmax_scale).astype(q.dtype),
        (grid.unstack_keys(dk) * softmax_scale).astype(k.dtype),
        grid.unstack_keys(dv).astype(v.dtype),
        None
        if bias is None or dbias is None or grid.bias is None
        else grid.bias.unpad(dbias, bias),
    )


_Sums = tuple[jax.Array, ...]
_Gradients = tuple[jax.Array, jax.Array, jax.Array, Any]


def _empty_forward(q: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    batch, length, heads, _ = q.shape
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    out = jnp.zeros_like(q, shape=(*q.shape[:-1], v.shape[-1]))
    return out, jnp.full((batch, heads, length), -jnp.inf, dtype)


def _merge(sums: _Sums, block: tuple[jax.Array, ...]) -> _Sums:
    """Running (product, total, peak) of a row with a further block's: the online softmax."""
    peak = jnp.maximum(sums[2], block[2])
    old, new = (jnp.exp(x - _finite(peak)) for x in (sums[2], block[2]))
    product = sums[0] * old[..., None] + block[0] * new[..., None]
    return product, sums[1] * old + block[1] * new, peak


def _finite(peak: jax.Array) -> jax.Array:
    """The peak to subtract: 0 in place of the -inf of a row that has seen no key."""
    return jnp.where(jnp.isneginf(peak), 0.0, peak)


def _at(stack: jax.Array, index: Index) -> jax.Array:
    if isinstance(index, int):
        return stack[index]
    block: jax.Array = lax.dynamic_index_in_dim(stack, index, keepdims=False)
    return block


def _add_at(stack: jax.Array, index: jax.Array, part: jax.Array) -> jax.Array:
    updated: jax.Array = lax.dynamic_update_index_in_dim(stack, _at(stack, index) + part, index, 0)
    return updated


def _take(state: _Sums, row: jax.Array) -> _Sums:
    return tuple(_at(x, row) for x in state)


def _update(state: _Sums, row: jax.Array, new: _Sums) -> _Sums:
    return tuple(
        lax.dynamic_update_index_in_dim(x, part, row, 0) for x, part in zip(state, new, strict=True)
    )
