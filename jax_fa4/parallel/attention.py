"""ring_attention: the call for one device of a ring."""

from __future__ import annotations

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_fa4.ops import checks
from jax_fa4.ops.band import UNBOUNDED, Band, Window
from jax_fa4.ops.core import Plan, checkpoint_names
from jax_fa4.ops.selection import Implementation, select
from jax_fa4.parallel import errors, layouts, ring, schedule
from jax_fa4.parallel.layouts import Layout
from jax_fa4.variants.problem import Problem


@overload
def ring_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    axis_name: Any,
    layout: Layout,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = (None, None),
    learnable_sink: ArrayLike | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[False] = ...,
    implementation: Implementation = ...,
    checkpoint_name: str | None = ...,
) -> jax.Array: ...


@overload
def ring_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    axis_name: Any,
    layout: Layout,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = (None, None),
    learnable_sink: ArrayLike | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[True],
    implementation: Implementation = ...,
    checkpoint_name: str | None = ...,
) -> tuple[jax.Array, jax.Array]: ...


def ring_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    axis_name: Any,
    layout: Layout,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (None, None),
    learnable_sink: ArrayLike | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
    implementation: Implementation = None,
    checkpoint_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(softmax_scale * Q K^T, over attended keys) V of a sequence split over a mesh axis.

    For use inside `jax.shard_map`, on what one device holds; `context_parallel_attention` is the
    same for whole arrays. Every device keeps its queries and passes its keys and values on, n - 1
    times on an axis of n devices, and fewer where a window hides the others'. Memory is linear in
    the rows of a device, forward and backward. The mesh may span hosts.

    Args:
      q: (B, S, Hq, D), S rows of the sequence of n * S; dtypes and head dims as
        `flash_attention`, but for float8_e4m3fn.
      k: (B, S, Hkv, D), Hq a multiple of Hkv, the same rows and dtype.
      v: (B, S, Hkv, Dv), the same rows and dtype.
      axis_name: the mesh axis (or tuple of axes) that the sequence is split over.
      layout: which rows a device holds. "zigzag": chunks r and 2n - 1 - r of 2n, with which a
        causal mask gives every device the same work on every hop; "contiguous": the r-th part,
        best with windows alone, as the keys travel least; "striped": rows r, r + n, r + 2n ...
        `to_layout` puts an array into it. There is no default, as nothing shows how rows lie.
      softmax_scale: number known at trace time; 1/sqrt(D) by default.
      causal: attend no later position of the sequence.
      window_size: (left, right), attend keys i - left <= j <= i + right, positions in the
        sequence; None leaves a side open.
      learnable_sink: float32 (Hq,), a logit for each head that joins each row's softmax and has
        no value: out is scaled by exp(lse - logaddexp(lse, sink)). Differentiable.
      deterministic, implementation, checkpoint_name: as `flash_attention`.
      return_lse: return (out, lse) instead.

    Returns:
      out (B, S, Hq, Dv) in q's dtype; with return_lse also lse (B, Hq, S) float32, the natural
      log-sum-exp of the row's scores over the whole sequence (and the sink). Both are
      differentiable, by a ring of its own; forward mode is not supported.

    Raises:
      ValueError: arguments that are wrong, or a call outside `jax.shard_map`;
      NotImplementedError: right, but not supported (q and k of unequal lengths).
      Both at trace time, with the argument, its value and the way out.

    Method: ring attention (Liu et al., arXiv:2310.01889), its causal balance as in
    `layout_positions`, on the kernels of `flash_attention`.
    """
    q, k, v = map(jnp.asarray, (q, k, v))
    checks.qkv(("q", "k", "v"), q, k, v)
    shards = axis_size(axis_name)
    length = q.shape[1]
    if k.shape[1] != length:
        raise errors.unequal_shards(length, k.shape[1])
    layouts.check(layout, length, shards)
    if shards * length >= UNBOUNDED:
        raise errors.sequence_too_long(length, shards)
    scale = checks.scale("softmax_scale", softmax_scale, q.shape[3])
    window = checks.window("window_size", window_size)
    problem = Problem(
        dtype=str(q.dtype),
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        softmax_scale=scale,
        deterministic=bool(deterministic),
    )
    band = Band.make(shards * length, shards * length, causal=bool(causal), window=window)
    plan = Plan(scale, band, select(problem, implementation), checkpoint_names(checkpoint_name))
    table = schedule.make(layout, shards, length, band)
    out, lse = ring.attention(ring.Ring(axis_name, table, plan), q, k, v)
    if learnable_sink is not None:
        out, lse = _with_sink(out, lse, jnp.asarray(learnable_sink))
    return (out, lse) if return_lse else out


def axis_size(axis_name: Any) -> int:
    """Number of devices along a manual mesh axis, or tuple of axes."""
    try:
        return int(lax.axis_size(axis_name))
    except NameError:
        raise errors.no_such_axis(axis_name) from None


def _with_sink(out: jax.Array, lse: jax.Array, sink: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The softmax with one more logit, from the one without: rows shrink by what it takes."""
    if sink.shape != (out.shape[2],):
        raise errors.bad_sink(sink.shape, out.shape[2])
    logit = sink.astype(lse.dtype)[None, :, None]
    # Both are -inf for a row without keys and a head without a sink.
    nothing = jnp.isneginf(logit)
    finite = jnp.where(nothing, 0.0, logit)
    share = jnp.where(nothing, 1.0, jax.nn.sigmoid(lse - finite)).transpose(0, 2, 1)[..., None]
    total = jnp.where(nothing, lse, jnp.logaddexp(lse, finite))
    return (out * share).astype(out.dtype), total
