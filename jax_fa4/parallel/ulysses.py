"""ulysses_attention: heads in place of rows, by all-to-all, around an ordinary call."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_fa4.ops import checks
from jax_fa4.ops.flash import flash_attention
from jax_fa4.parallel import errors, layouts
from jax_fa4.parallel.attention import axis_size
from jax_fa4.parallel.layouts import Layout

_ROWS, _HEADS = 1, 2


def ulysses_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    axis_name: Any,
    layout: Layout = "contiguous",
    learnable_sink: ArrayLike | None = None,
    return_lse: bool = False,
    **options: Any,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`flash_attention` of a sequence split over a mesh axis, each device computing some heads.

    For use inside `jax.shard_map`, on what one device holds; `context_parallel_attention` is the
    same for whole arrays. An all-to-all gives each of the n devices all rows of Hq / n heads, and
    another takes the results back: less is sent than by `ring_attention` unless key heads are
    few, nothing overlaps with it, and every option of `flash_attention` goes.

    Args:
      q: (B, Sq, Hq, D), Sq rows of the sequence of n * Sq; Hq a multiple of n.
      k: (B, Sk, Hkv, D), Hq a multiple of Hkv. Where n does not divide Hkv, key heads are sent
        n / gcd(n, Hkv) times: with n a multiple of Hkv, exactly the one that a device needs.
      v: (B, Sk, Hkv, Dv).
      axis_name: the mesh axis (or tuple of axes) that the sequence is split over.
      layout: which rows a device holds, as `ring_attention`; other than "contiguous" costs a
        copy of all four arrays, and is for models that mix both calls.
      learnable_sink: float32 (Hq,), as `flash_attention`.
      return_lse: return (out, lse) instead.
      options: those of `flash_attention`, which every device calls on whole sequences: causal,
        window_size, softmax_scale, deterministic, implementation, checkpoint_name, ...

    Returns:
      out (B, Sq, Hq, Dv) in q's dtype; with return_lse also lse (B, Hq, Sq) float32. Both are
      differentiable.

    Raises:
      ValueError: arguments that are wrong, or a call outside `jax.shard_map`;
      NotImplementedError: right, but not supported (Hq not a multiple of n).
      Both at trace time, with the argument, its value and the way out.

    Method: DeepSpeed-Ulysses (Jacobs et al., arXiv:2309.14509).
    """
    q, k, v = map(jnp.asarray, (q, k, v))
    checks.qkv(("q", "k", "v"), q, k, v, takes_fp8=True)
    devices = axis_size(axis_name)
    for x in (q, k):
        layouts.check(layout, x.shape[_ROWS], devices)
    heads = q.shape[_HEADS]
    if heads % devices:
        raise errors.heads_do_not_split(heads, devices)
    copies = devices // math.gcd(devices, k.shape[_HEADS])
    k, v = (jnp.repeat(x, copies, axis=_HEADS) if copies > 1 else x for x in (k, v))
    if learnable_sink is not None:
        sink = jnp.asarray(learnable_sink)
        if sink.shape != (heads,):
            raise errors.bad_sink(sink.shape, heads)
        own = lax.axis_index(axis_name) * (heads // devices)
        options["learnable_sink"] = lax.dynamic_slice_in_dim(sink, own, heads // devices)

    def to_heads(x: jax.Array) -> jax.Array:
        whole = lax.all_to_all(x, axis_name, _HEADS, _ROWS, tiled=True)
        return layouts.from_layout(whole, layout, devices) if layout != "contiguous" else whole

    def to_rows(x: jax.Array, rows: int, heads: int) -> jax.Array:
        if layout != "contiguous":
            x = layouts.to_layout(x, layout, devices, rows)
        part: jax.Array = lax.all_to_all(x, axis_name, rows, heads, tiled=True)
        return part

    out, lse = flash_attention(*map(to_heads, (q, k, v)), return_lse=True, **options)
    out = to_rows(out, _ROWS, _HEADS)
    return (out, to_rows(lse, 2, 1)) if return_lse else out
