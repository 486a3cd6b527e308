"""The call with jax.nn's conventions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_fa4.ops import checks, errors, mods
from jax_fa4.ops.band import FULL, Alignment, Band, Window
from jax_fa4.ops.core import Plan, attention, checkpoint_names
from jax_fa4.ops.packing import Packing
from jax_fa4.ops.selection import Implementation, select
from jax_fa4.variants.problem import Problem

_ALIGNMENTS = ("top_left", "bottom_right")


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = ...,
    mask: ArrayLike | None = ...,
    *,
    scale: float | None = ...,
    is_causal: bool = ...,
    query_seq_lengths: ArrayLike | None = ...,
    key_value_seq_lengths: ArrayLike | None = ...,
    local_window_size: int | Window | None = ...,
    implementation: Implementation = ...,
    return_residual: Literal[False] = ...,
    logits_soft_cap: float | None = ...,
    sinks: ArrayLike | None = ...,
    query_segment_ids: ArrayLike | None = ...,
    key_value_segment_ids: ArrayLike | None = ...,
    causal_alignment: Alignment = ...,
    score_mod: Callable[..., Any] | None = ...,
    mask_mod: Callable[..., Any] | None = ...,
    dropout_rate: float = ...,
    dropout_rng: ArrayLike | None = ...,
    broadcast_dropout: bool = ...,
    deterministic: bool = ...,
    checkpoint_name: str | None = ...,
) -> jax.Array: ...


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = ...,
    mask: ArrayLike | None = ...,
    *,
    scale: float | None = ...,
    is_causal: bool = ...,
    query_seq_lengths: ArrayLike | None = ...,
    key_value_seq_lengths: ArrayLike | None = ...,
    local_window_size: int | Window | None = ...,
    implementation: Implementation = ...,
    return_residual: Literal[True],
    logits_soft_cap: float | None = ...,
    sinks: ArrayLike | None = ...,
    query_segment_ids: ArrayLike | None = ...,
    key_value_segment_ids: ArrayLike | None = ...,
    causal_alignment: Alignment = ...,
    score_mod: Callable[..., Any] | None = ...,
    mask_mod: Callable[..., Any] | None = ...,
    dropout_rate: float = ...,
    dropout_rng: ArrayLike | None = ...,
    broadcast_dropout: bool = ...,
    deterministic: bool = ...,
    checkpoint_name: str | None = ...,
) -> tuple[jax.Array, jax.Array]: ...


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | Window | None = None,
    implementation: Implementation = None,
    return_residual: bool = False,
    logits_soft_cap: float | None = None,
    sinks: ArrayLike | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    causal_alignment: Alignment = "top_left",
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: ArrayLike | None = None,
    broadcast_dropout: bool = False,
    deterministic: bool = False,
    checkpoint_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(scale * Q K^T + bias, over attended keys) V, with jax.nn's names and meaning.

    B is the batch, T and S the query and key lengths, N and K the query and key heads (query
    head n uses key head n // (N // K)), H the head dim and V that of value, which may differ
    (jax.nn: V is H).

    Args:
      query: (B, T, N, H) or (T, N, H); further leading batch axes may precede B. bfloat16 or
        float16 for the kernels, float32 too for the portable path.
      key: (B, S, K, H) or (S, K, H), N a multiple of K, batch axes and dtype of query.
      value: (B, S, K, V) or (S, K, V), batch axes and dtype of query.
      bias: added to the scaled scores, broadcastable to (B, N, T, S); differentiable.
      mask: boolean, True = attend, broadcastable to (B, N, T, S). bias and mask run on the
        portable path.
      scale: number known at trace time; 1/sqrt(H) by default.
      is_causal: attend keys j <= i only (with "bottom_right", j <= i + S - T).
      local_window_size: (left, right), attend keys i - left <= j <= i + right; None in a slot
        leaves that side open, an int w is (w, w).
      implementation: "fa4" is the kernel, and raises where it cannot run; "xla" the portable
        path; None the kernel where it can; "emulator" runs the kernel without a GPU, on the CPU
        (`jax_fa4.emulator`).
      return_residual: return (out, lse) instead.
      causal_alignment: where the diagonals of is_causal and local_window_size start when
        T != S: at the first query and key ("top_left") or at the last ("bottom_right").
      checkpoint_name: name of out and lse for `jax.checkpoint` policies, in place of
        `jax_fa4.CHECKPOINT_NAMES`.
      deterministic: whether the gradients must have the same bits in every run. By default the
        kernels add to that of query in a varying order; those of key and value never vary. Where no
        deterministic kernel exists (`explain` says so), the portable path computes them.
      query_seq_lengths, key_value_seq_lengths: integers (B,), may be traced: only the first so
        many rows attend, and only the first so many keys are attended. More than T or S is T or
        S. With "bottom_right" they are where the last query and key are.
      query_segment_ids, key_value_segment_ids: integers (B, T) and (B, S), may be traced: a
        row attends only keys of its own id, under is_causal, windows and lengths besides, whose
        positions are those in the arrays. Any ids in any order; for T = S one may be given for
        both. Blocks without an equal pair are skipped: packed documents cost what they contain.
      logits_soft_cap: number c known at trace time, > 0: scaled scores become c tanh(score / c),
        before a bias is added; None or 0 for none.
      sinks: (N,), learnable: exp(sink) joins the sum of a head's every row, and no value, so
        out = sum_j exp(s_j) v_j / (sum_j exp(s_j) + exp(sink)); lse contains it. -inf is none. A
        row that attends no key has out 0 and lse = sink.
      score_mod: function (score, batch, head, query index, key index) of scalars that gives the
        score to use, of the scaled, capped and biased one; traced by JAX, so any of its functions
        will do. Arrays that it captures have gradients. Indices are those in the arrays, batch
        that in the flattened batch axes; inside jax.shard_map, in a device's part.
      mask_mod: function (batch, head, query index, key index) of scalars, True = attend, besides
        all other masks. Blocks where it keeps nothing are skipped. Both mods run on the portable
        path; call it under jax.jit, or every call compiles.
      dropout_rate, dropout_rng: drop probabilities at this rate, known at trace time, by this
        key, and divide the others by 1 - rate; lse is that of all. On the portable path.
      broadcast_dropout: drop the same ones in all batch elements and heads.

    Returns:
      out (B, T, N, V) or (T, N, V), of query's batch axes and dtype; with return_residual also
      lse (B, T, N) float32, the natural log-sum-exp of each row's scores, differentiable
      (jax.nn: query's dtype, no gradient). A row that attends no key has out 0 and lse -inf,
      and gradients of zero (jax.nn: the mean of V).

    Raises:
      ValueError: arguments that are wrong; NotImplementedError: right, but not supported.
      Both at trace time, with the argument, its value and the way out.

    Method: FlashAttention-4 (Zadouri et al. 2026) and the online softmax behind it.
    """
    packing = Packing(
        query_seq_lengths, key_value_seq_lengths, query_segment_ids, key_value_segment_ids
    )
    checks.choice("causal_alignment", causal_alignment, _ALIGNMENTS)
    names = ("query", "key", "value")
    arrays = tuple(map(jnp.asarray, (query, key, value)))
    batch = arrays[0].shape[:-3]
    q, k, v = (_flatten_batch(name, x, batch) for name, x in zip(names, arrays, strict=True))
    checks.qkv(names, q, k, v)
    lengths = (q.shape[1], k.shape[1])
    packing.check(batch, lengths)
    scores = (q.shape[2], *lengths)
    if bias is not None:
        checks.bias_dtype(bias := jnp.asarray(bias))
        bias = checks.dense("bias", bias, batch, scores)
    if mask is not None:
        checks.mask_dtype(mask := jnp.asarray(mask))
        mask = checks.dense("mask", mask, batch, scores)
    number = checks.scale("scale", scale, q.shape[3])
    softcap = checks.softcap("logits_soft_cap", logits_soft_cap)
    if sinks is not None:
        checks.sinks("sinks", sinks := jnp.asarray(sinks), q.shape[2])
    chance = mods.dropout(dropout_rate, dropout_rng, bool(broadcast_dropout))
    own, own_arrays = mods.make(score_mod, mask_mod, chance, q.dtype)
    band = Band.make(
        *lengths,
        causal=bool(is_causal),
        window=checks.window("local_window_size", local_window_size),
        alignment=causal_alignment,
    )
    problem = Problem(
        dtype=str(q.dtype),
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        softmax_scale=number,
        has_bias=bias is not None,
        has_mask=mask is not None,
        deterministic=bool(deterministic),
        has_bounds=packing.is_given,
        has_softcap=softcap != 0,
        has_mods=score_mod is not None or mask_mod is not None,
        has_dropout=chance[0] is not None,
    )
    path = select(problem, implementation)
    bounds = packing.bounds(band, batch, lengths, moves=causal_alignment == "bottom_right")
    band = band if bounds is None else FULL
    plan = Plan(number, band, path, checkpoint_names(checkpoint_name), softcap, own)
    arrays_of_mods = own_arrays if own else None
    out, lse = attention(plan, q, k, v, bias, mask, bounds, sinks, arrays_of_mods)
    out = out.reshape(*arrays[0].shape[:-1], out.shape[-1])
    if not return_residual:
        return out
    return out, lse.transpose(0, 2, 1).reshape(out.shape[:-1])


def _flatten_batch(name: str, x: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """(*batch, length, heads, head_dim) as (B, length, heads, head_dim)."""
    if x.ndim < 3:
        expected = "(length, heads, head_dim), or with batch axes in front"
        raise errors.wrong_rank(name, x.shape, expected)
    if x.shape[:-3] != batch:
        raise errors.wrong_shape(name, x.shape, f"the batch axes of query {batch}")
    return x.reshape(math.prod(batch), *x.shape[-3:])
