"""ulysses_attention: heads in place of rows, by all-to-all, around an ordinary call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_fa4.ops import checks
from jax_fa4.ops.attention import dot_product_attention
from jax_fa4.ops.flash import flash_attention
from jax_fa4.parallel import errors, layouts
from jax_fa4.parallel.attention import axis_size, options_of, segments
from jax_fa4.parallel.layouts import Layout

_ROWS, _HEADS = 1, 2
_KNOWN = frozenset(options_of(flash_attention))
# What flash_attention's options are called by the call that takes segment ids.
_NAMES = {
    "softmax_scale": "scale",
    "causal": "is_causal",
    "window_size": "local_window_size",
    "softcap": "logits_soft_cap",
    "learnable_sink": "sinks",
}


def ulysses_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    axis_name: Any,
    layout: Layout = "contiguous",
    learnable_sink: ArrayLike | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
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
      learnable_sink: (Hq,), as `flash_attention`.
      query_segment_ids, key_value_segment_ids: integers (B, Sq) and (B, Sk), as
        `ring_attention`; each device gathers those of the whole sequence.
      return_lse: return (out, lse) instead.
      options: those of `flash_attention`, which every device calls on whole sequences: causal,
        window_size, softmax_scale, softcap, deterministic, implementation, checkpoint_name, and
        the descales of float8_e4m3fn (not with segment ids) as the heads of k on a device are
        before the exchange, (B, Hkv).

    Returns:
      out (B, Sq, Hq, Dv) in q's dtype; with return_lse also lse (B, Hq, Sq) float32. Both are
      differentiable.

    Raises:
      ValueError: arguments that are wrong, or a call outside `jax.shard_map`;
      NotImplementedError: right, but not supported (Hq not a multiple of n, a bias);
      TypeError: an option that is not above.
      All at trace time, with the argument, its value and the way out.

    Method: DeepSpeed-Ulysses (Jacobs et al., arXiv:2309.14509).
    """
    for name in options.keys() - _KNOWN:
        known = {*_KNOWN, *options_of(ulysses_attention)}
        raise errors.unknown_option(name, "ulysses_attention", known)
    q, k, v = map(jnp.asarray, (q, k, v))
    checks.qkv(("q", "k", "v"), q, k, v, takes_fp8=True)
    devices = axis_size(axis_name)
    lengths = q.shape[_ROWS], k.shape[_ROWS]
    for length in lengths:
        layouts.check(layout, length, devices)
    if q.shape[_HEADS] % devices:
        raise errors.heads_do_not_split(q.shape[_HEADS], devices)
    ids = segments(query_segment_ids, key_value_segment_ids, q.shape[0], lengths)
    for name in checks.DESCALES:
        if options.get(name) is not None:
            checks.descale(name, x := jnp.asarray(options[name]), q, k)
            options[name] = x
    if learnable_sink is not None:
        checks.sinks("learnable_sink", x := jnp.asarray(learnable_sink), q.shape[_HEADS])
        options["learnable_sink"] = x
    return _Exchange(axis_name, layout, devices).attention(q, k, v, ids, return_lse, options)


@dataclass(frozen=True)
class _Exchange:
    """Rows for heads and back, on one of `devices` along the axis."""

    axis_name: Any
    layout: Layout
    devices: int

    def attention(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        ids: tuple[jax.Array, ...],
        return_lse: bool,
        options: dict[str, Any],
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """The whole call, on checked arrays."""
        copies = self.devices // math.gcd(self.devices, k.shape[_HEADS])
        if copies > 1:
            k, v = (jnp.repeat(x, copies, axis=_HEADS) for x in (k, v))
        for name in (*checks.DESCALES, "learnable_sink"):
            if options.get(name) is not None:
                every = options[name]
                options[name] = self.own(jnp.repeat(every, copies, 1) if every.ndim > 1 else every)
        arrays = map(self.to_heads, (q, k, v))
        if ids:
            out, lse = _packed(*arrays, *map(self.whole, ids), **options)
        else:
            out, lse = flash_attention(*arrays, return_lse=True, **options)
        out = self.to_rows(out, _ROWS, _HEADS)
        return (out, self.to_rows(lse, 2, 1)) if return_lse else out

    def own(self, x: jax.Array) -> jax.Array:
        """This device's share of an array whose last axis is the heads."""
        share = x.shape[-1] // self.devices
        start = lax.axis_index(self.axis_name) * share
        part: jax.Array = lax.dynamic_slice_in_dim(x, start, share, axis=-1)
        return part

    def to_heads(self, x: jax.Array) -> jax.Array:
        """All rows of this device's share of the heads."""
        return self.in_order(lax.all_to_all(x, self.axis_name, _HEADS, _ROWS, tiled=True))

    def whole(self, ids: jax.Array) -> jax.Array:
        """All rows' ids."""
        return self.in_order(lax.all_gather(ids, self.axis_name, axis=_ROWS, tiled=True))

    def in_order(self, x: jax.Array) -> jax.Array:
        """All rows as the sequence has them."""
        if self.layout == "contiguous":
            return x
        return layouts.from_layout(x, self.layout, self.devices)

    def to_rows(self, x: jax.Array, rows: int, heads: int) -> jax.Array:
        """The way back, of an array with these axes."""
        if self.layout != "contiguous":
            x = layouts.to_layout(x, self.layout, self.devices, rows)
        part: jax.Array = lax.all_to_all(x, self.axis_name, rows, heads, tiled=True)
        return part


def _packed(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array,
    key_ids: jax.Array,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """`flash_attention` with segment ids, as (out, lse)."""
    out, lse = dot_product_attention(
        *(q, k, v),
        query_segment_ids=query_ids,
        key_value_segment_ids=key_ids,
        causal_alignment="bottom_right",
        return_residual=True,
        **{_NAMES.get(name, name): x for name, x in options.items() if x is not None},
    )
    return out, lse.swapaxes(1, 2)
