"""ring_attention: the call for one device of a ring."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_fa4.ops import checks
from jax_fa4.ops.band import UNBOUNDED, Band, Window
from jax_fa4.ops.core import Plan, checkpoint_names
from jax_fa4.ops.packing import Packing
from jax_fa4.ops.selection import Implementation, select
from jax_fa4.ops.sinks import include
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
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    query_segment_ids: ArrayLike | None = ...,
    key_value_segment_ids: ArrayLike | None = ...,
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
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    query_segment_ids: ArrayLike | None = ...,
    key_value_segment_ids: ArrayLike | None = ...,
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
    softcap: float = 0.0,
    learnable_sink: ArrayLike | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
    implementation: Implementation = None,
    checkpoint_name: str | None = None,
    **unknown: Any,
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
      query_segment_ids, key_value_segment_ids: integers (B, S), may be traced: a query attends
        keys of its own id alone, wherever they are. One is enough where both are the same.
      softcap, learnable_sink, deterministic, implementation, checkpoint_name: as
        `flash_attention`.
      return_lse: return (out, lse) instead.

    Returns:
      out (B, S, Hq, Dv) in q's dtype; with return_lse also lse (B, Hq, S) float32, the natural
      log-sum-exp of the row's scores over the whole sequence (and the sink). Both are
      differentiable, by a ring of its own; forward mode is not supported.

    Raises:
      ValueError: arguments that are wrong, or a call outside `jax.shard_map`;
      NotImplementedError: right, but not supported (q and k of unequal lengths, a bias);
      TypeError: an option that is not above.
      All at trace time, with the argument, its value and the way out.

    Method: ring attention (Liu et al., arXiv:2310.01889), its causal balance as in
    `layout_positions`, on the kernels of `flash_attention`.
    """
    for name in unknown:
        raise errors.unknown_option(name, "ring_attention", options_of(ring_attention))
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
    cap = checks.softcap("softcap", softcap)
    if learnable_sink is not None:
        checks.sinks("learnable_sink", learnable_sink := jnp.asarray(learnable_sink), q.shape[2])
    ids = segments(query_segment_ids, key_value_segment_ids, q.shape[0], (length, length))
    problem = Problem(
        dtype=str(q.dtype),
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        softmax_scale=scale,
        deterministic=bool(deterministic),
        has_bounds=bool(ids),
        has_softcap=cap != 0,
    )
    band = Band.make(shards * length, shards * length, causal=bool(causal), window=window)
    path = select(problem, implementation)
    plan = Plan(scale, band, path, checkpoint_names(checkpoint_name), cap)
    table = schedule.make(layout, shards, length, band)
    out, lse = ring.attention(ring.Ring(axis_name, table, plan), q, k, v, *ids)
    if learnable_sink is not None:
        out, lse = include(out, lse, learnable_sink)
    return (out, lse) if return_lse else out


def axis_size(axis_name: Any) -> int:
    """Number of devices along a manual mesh axis, or tuple of axes."""
    try:
        return int(lax.axis_size(axis_name))
    except NameError:
        raise errors.no_such_axis(axis_name) from None


def options_of(function: Callable[..., Any]) -> list[str]:
    """The names of a call's options."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def segments(
    queries: ArrayLike | None, keys: ArrayLike | None, batch: int, lengths: tuple[int, int]
) -> tuple[jax.Array, ...]:
    """Checked ids of queries and keys as int32, the one given for both; none where none is."""
    packing = Packing(query_segment_ids=queries, key_value_segment_ids=keys)
    packing.check((batch,), lengths)
    given = [jnp.asarray(x).astype(jnp.int32) for x in (queries, keys) if x is not None]
    return (given[0], given[-1]) if given else ()
