"""The call with FlashAttention's conventions."""

from __future__ import annotations

from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_fa4.ops import checks, fp8
from jax_fa4.ops.band import Band, Window
from jax_fa4.ops.core import Plan, attention, checkpoint_names
from jax_fa4.ops.selection import Implementation, select
from jax_fa4.ops.sinks import include
from jax_fa4.variants.problem import Problem


@overload
def flash_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    query_descale: ArrayLike | None = ...,
    key_descale: ArrayLike | None = ...,
    value_descale: ArrayLike | None = ...,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = (None, None),
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[False] = ...,
    implementation: Implementation = ...,
    checkpoint_name: str | None = ...,
) -> jax.Array: ...


@overload
def flash_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    query_descale: ArrayLike | None = ...,
    key_descale: ArrayLike | None = ...,
    value_descale: ArrayLike | None = ...,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = (None, None),
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[True],
    implementation: Implementation = ...,
    checkpoint_name: str | None = ...,
) -> tuple[jax.Array, jax.Array]: ...


def flash_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    query_descale: ArrayLike | None = None,
    key_descale: ArrayLike | None = None,
    value_descale: ArrayLike | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (None, None),
    softcap: float = 0.0,
    learnable_sink: ArrayLike | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
    implementation: Implementation = None,
    checkpoint_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(softmax_scale * Q K^T, over attended keys) V, with FlashAttention's conventions.

    Args:
      q: (B, Sq, Hq, D); bfloat16 or float16 for the kernels, float32 too for the portable path;
        float8_e4m3fn for the forward alone.
      k: (B, Sk, Hkv, D), Hq a multiple of Hkv, dtype of q.
      v: (B, Sk, Hkv, Dv), dtype of q; Dv may differ from D.
      query_descale, key_descale, value_descale: with float8_e4m3fn, what q, k and v are to be
        multiplied by, greater than 0: float32 (B, Hkv), one for every head of keys (query head h
        uses that of its key head); 1 by default.
      softmax_scale: number known at trace time; 1/sqrt(D) by default.
      causal: attend keys j <= i + Sk - Sq only (the last query sees the last key).
      window_size: (left, right), attend keys i + Sk - Sq - left <= j <= i + Sk - Sq + right;
        None leaves a side open (-1 elsewhere: refused here).
      return_lse: return (out, lse) instead.
      implementation: "fa4" is the kernel, and raises where it cannot run; "xla" the portable
        path; None the kernel where it can; "emulator" runs the kernel without a GPU, on the CPU
        (`jax_fa4.emulator`).
      checkpoint_name: name of out and lse for `jax.checkpoint` policies, in place of
        `jax_fa4.CHECKPOINT_NAMES`.
      deterministic: whether the gradients must have the same bits in every run. By default the
        kernels add to that of q in a varying order; those of k and v never vary. Where no
        deterministic kernel exists (`explain` says so), the portable path computes them.
      softcap: number c known at trace time: scaled scores become c tanh(score / c); 0 for none.
      learnable_sink: (Hq,): exp(sink) joins the sum of a head's every row, and no value, so
        out = sum_j exp(s_j) v_j / (sum_j exp(s_j) + exp(sink)); lse contains it. -inf is none. A
        row that attends no key has out 0 and lse = sink.

    Returns:
      out (B, Sq, Hq, Dv) in q's dtype, bfloat16 for float8_e4m3fn; with return_lse also lse
      (B, Hq, Sq) float32, the natural log-sum-exp of each row's scores. Both are differentiable,
      but for float8_e4m3fn. A row that attends no key has out 0 and lse -inf, and gradients of
      zero.

    Raises:
      ValueError: arguments that are wrong; NotImplementedError: right, but not supported.
      Both at trace time, with the argument, its value and the way out.

    Method: FlashAttention-4 (Zadouri et al. 2026) and the online softmax behind it.
    """
    q, k, v = map(jnp.asarray, (q, k, v))
    checks.qkv(("q", "k", "v"), q, k, v, takes_fp8=True)
    descales = _descales(q, k, query_descale, key_descale, value_descale)
    number = checks.scale("softmax_scale", softmax_scale, q.shape[3])
    cap = checks.softcap("softcap", softcap)
    if learnable_sink is not None:
        checks.sinks("learnable_sink", learnable_sink := jnp.asarray(learnable_sink), q.shape[2])
    band = Band.make(
        q.shape[1],
        k.shape[1],
        causal=bool(causal),
        window=checks.window("window_size", window_size),
        alignment="bottom_right",
    )
    problem = Problem(
        dtype=str(q.dtype),
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        softmax_scale=number,
        deterministic=bool(deterministic),
        has_softcap=cap != 0,
    )
    path = select(problem, implementation)
    plan = Plan(number, band, path, checkpoint_names(checkpoint_name), cap)
    if descales is None:
        out, lse = attention(plan, q, k, v, sinks=learnable_sink)
    else:
        out, lse = fp8.attention(plan, q, k, v, descales)
        if learnable_sink is not None:
            out, lse = include(out, lse, learnable_sink)
    return (out, lse) if return_lse else out


def _descales(q: jax.Array, k: jax.Array, *given: ArrayLike | None) -> fp8.Descales | None:
    """The descales of 8-bit arrays, 1 where none is given; None for other arrays."""
    arrays = [None if x is None else jnp.asarray(x) for x in given]
    for name, x in zip(checks.DESCALES, arrays, strict=True):
        checks.descale(name, x, q, k)
    if str(q.dtype) != checks.FP8:
        return None
    ones = jnp.ones((k.shape[0], k.shape[2]), jnp.float32)
    return fp8.Descales(*(ones if x is None else x for x in arrays))
