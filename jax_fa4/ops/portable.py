"""Attention in `lax` alone, block by block: O(S) memory forward and backward.

The forward is the online softmax (Milakov and Gimelshein, arXiv:1805.02867; Rabe and
Staats, arXiv:2112.05682); the backward recomputes each block's probabilities from lse
(Dao, arXiv:2307.08691). Scores, softmax and every sum are float32 (float64 for float64
inputs); probabilities and their gradients round to the inputs' dtype before a product.

Arrays are stacks of blocks here, as `grid` lays them out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops.block_scores import BlockScores
from jax_fa4.ops.blocks import Index
from jax_fa4.ops.dense_blocks import Dense
from jax_fa4.ops.grid import Grid, dot
from jax_fa4.ops.scoring import NOTHING, Operands, Scoring


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, scoring: Scoring, operands: Operands = NOTHING
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) in q's dtype and lse (B, Hq, Sq); see `reference.attention`."""
    if 0 in q.shape or 0 in k.shape:
        return _empty_forward(q, v)
    grid = Grid.make(q, k)
    scores = BlockScores.make(grid, scoring, operands)
    queries, keys, values = grid.stack_queries(q), grid.stack_keys(k), grid.stack_keys(v)

    def block(row: Index, column: Index) -> _Sums:
        found = scores.block(_at(queries, row), _at(keys, column), row, column)
        # Results do not depend on it. Its tangent would compare scores with it, which a compiler
        # may round anew: no score is then the largest, and 0 / 0 its tangent.
        peak = lax.stop_gradient(found.max(axis=-1))
        weights = jnp.exp(found - _finite(peak)[..., None])
        value, total = _at(values, column), weights.sum(axis=-1)
        dropped = scores.dropped(row, column)
        if dropped is not None:
            weights = weights * dropped
        product = dot("bhgij,bhjd->bhgid", weights.astype(value.dtype), value)
        return product, total, peak

    if grid.is_one_block:
        product, total, peak = (x[None] for x in block(0, 0))
    else:

        def step(row: jax.Array, column: jax.Array, state: _Sums) -> _Sums:
            return _update(state, row, _merge(_take(state, row), block(row, column)))

        start = grid.like_queries((0.0, v.shape[-1]), (0.0, None), (-jnp.inf, None))
        product, total, peak = scores.walk(step, start)
    seen = total > 0
    out = product / jnp.where(seen, total, 1.0)[..., None]
    if operands.value_scale is not None:
        out = out * operands.value_scale[None, :, :, None, None, None]
    lse = jnp.where(seen, jnp.log(jnp.where(seen, total, 1.0)) + _finite(peak), -jnp.inf)
    return grid.unstack_queries(out).astype(q.dtype), grid.unstack_rows(lse)


class Gradients(NamedTuple):
    """Of a loss: what the backward returns, and within it their sums over blocks."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None = None
    captured: tuple[jax.Array, ...] = ()  # by score_mod


class Residuals(NamedTuple):
    """What the backward needs beside the forward's arguments.

    lse (B, H, Sq) is the forward's, dout (B, Sq, H, Dv) the gradient of its out, delta (B, H, Sq)
    the `row_delta`.
    """

    lse: jax.Array
    dout: jax.Array
    delta: jax.Array


def row_delta(out: jax.Array, dout: jax.Array, dlse: jax.Array) -> jax.Array:
    """delta = rowsum(dO * O) - dlse, (B, H, S): what the backward takes from dP of a row."""
    product = jnp.einsum("bshd,bshd->bhs", out.astype(dlse.dtype), dout.astype(dlse.dtype))
    return product - dlse


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    residuals: Residuals,
    scoring: Scoring,
    operands: Operands = NOTHING,
) -> Gradients:
    """The gradients, P = exp(S - lse), dV = P^T dO, dS = P * (dO V^T - delta), dQ = scale dS K,
    dK = scale dS^T Q, dbias = dS summed over the axes along which bias was broadcast.

    Under dropout dO V^T is multiplied as P was, and so is P for dV. Rows that saw no key (lse
    -inf) contribute nothing, whatever their delta. Without a bias its gradient is None.
    """
    bias = operands.bias
    if 0 in q.shape or 0 in k.shape:
        captured = () if operands.mods is None else operands.mods.score.floats
        return Gradients(*jax.tree.map(jnp.zeros_like, (q, k, v, bias, captured)))
    grid = Grid.make(q, k)
    scores = BlockScores.make(grid, scoring, operands)
    block = _backward_block(grid, scores, (q, k, v), residuals)
    if grid.is_one_block:
        dq, dk, dv, dbias, captured = block(0, 0)
        dbias = None if scores.bias is None else scores.bias.sum_into_shape(dbias)
        sums = Gradients(dq[None], dk[None], dv[None], dbias, captured)
    else:

        def step(row: jax.Array, column: jax.Array, state: Gradients) -> Gradients:
            dq, dk, dv, part, captured = block(row, column)
            dbias = state.bias
            if scores.bias is not None and dbias is not None:
                dbias = scores.bias.add_block(dbias, part, row, column)
            return Gradients(
                _add_at(state.q, row, dq),
                _add_at(state.k, column, dk),
                _add_at(state.v, column, dv),
                dbias,
                jax.tree.map(jnp.add, state.captured, captured),
            )

        (dq,) = grid.like_queries((0.0, q.shape[-1]))
        dk, dv = grid.like_keys(k.shape[-1]), grid.like_keys(v.shape[-1])
        dbias = None if scores.bias is None else grid.varying(scores.bias.zeros())
        captured = tuple(
            grid.varying(jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)))
            for x in scores.floats
        )
        sums = scores.walk(step, Gradients(dq, dk, dv, dbias, captured))
    return Gradients(
        (grid.unstack_queries(sums.q) * scoring.softmax_scale).astype(q.dtype),
        (grid.unstack_keys(sums.k) * scoring.softmax_scale).astype(k.dtype),
        grid.unstack_keys(sums.v).astype(v.dtype),
        _unpadded(scores.bias, sums.bias, bias),
        tuple(x.astype(like.dtype) for x, like in zip(sums.captured, scores.floats, strict=True)),
    )


def _unpadded(
    bias: Dense | None, gradient: jax.Array | None, like: jax.Array | None
) -> jax.Array | None:
    if bias is None or gradient is None or like is None:
        return None
    return bias.unpad(gradient, like)


def _backward_block(
    grid: Grid, scores: BlockScores, qkv: tuple[jax.Array, ...], residuals: Residuals
) -> Any:
    """The function of (row, column) that gives a block's parts of all gradients."""
    q, k, v = qkv
    queries, keys, values = grid.stack_queries(q), grid.stack_keys(k), grid.stack_keys(v)
    douts = grid.stack_queries(residuals.dout)
    unseen = jnp.isneginf(residuals.lse)
    # exp(S - inf) is 0: rows without keys, and the padding of the tail, drop out.
    lses = grid.stack_rows(jnp.where(unseen, jnp.inf, residuals.lse), padding=jnp.inf)
    deltas = grid.stack_rows(jnp.where(unseen, 0.0, residuals.delta), padding=0.0)

    def block(row: Index, column: Index) -> tuple[Any, ...]:
        # Keys lead here: two of the three products then take the scores as they lie.
        query, key, value = _at(queries, row), _at(keys, column), _at(values, column)
        dout = _at(douts, row)
        found, pull = scores.block_by_key(query, key, row, column)
        weights = jnp.exp(found - _at(lses, row)[:, :, None])
        dweights = dot("bhjd,bhgid->bhjgi", value, dout)
        kept = scores.dropped(row, column)
        if kept is not None:
            kept = jnp.moveaxis(kept, -1, 2)
            dweights = dweights * kept
        dscores = weights * (dweights - _at(deltas, row)[:, :, None])
        dproducts, dbias, captured = pull(dscores)
        weights = weights if kept is None else weights * kept
        rounded = dproducts.astype(query.dtype)
        return (
            dot("bhjgi,bhjd->bhgid", rounded, key),
            dot("bhjgi,bhgid->bhjd", rounded, query),
            dot("bhjgi,bhgid->bhjd", weights.astype(dout.dtype), dout),
            dbias,
            captured,
        )

    return block


_Sums = tuple[jax.Array, ...]


def _empty_forward(q: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    batch, length, heads, _ = q.shape
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    out = jnp.zeros_like(q, shape=(*q.shape[:-1], v.shape[-1]))
    return out, jnp.full((batch, heads, length), -jnp.inf, dtype)


def _merge(sums: _Sums, block: _Sums) -> _Sums:
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
