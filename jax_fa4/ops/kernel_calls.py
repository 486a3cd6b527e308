"""The kernels' custom calls on arrays of any head dim: what a device runs on what it holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_fa4.ffi.backward import Operands
from jax_fa4.ffi.backward import backward as backward_call
from jax_fa4.ffi.backward import backward_bounded as backward_bounded_call
from jax_fa4.ffi.forward import forward as forward_call
from jax_fa4.ffi.forward import forward_bounded as forward_bounded_call
from jax_fa4.ops.band import Band
from jax_fa4.ops.bound_tables import BoundTables, bound_tables
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.ops.manual_axes import vary, varying_axes
from jax_fa4.ops.selection import Path

_ROW_STEP = 16  # bytes: the kernels copy rows in such steps


def forward(
    path: Path,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *bounds: jax.Array,
    softmax_scale: float,
    band: Band,
    softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """The forward custom call, the head dims padded with zeros to what the kernels read.

    `bounds` are a `KeyBounds`, of a path of bounded kernels; with softcap they may be left out.
    """
    names = path.forward_for(q.shape, k.shape, band)
    padded = pad_head_dim(q), pad_head_dim(k), pad_head_dim(v)
    if bounds or softcap:
        out, lse = forward_bounded_call(
            *padded,
            _tables(bounds, q, k, band),
            softmax_scale=softmax_scale,
            softcap=softcap,
            variants=names,
            emulator=path.emulator,
        )
    else:
        out, lse = forward_call(
            *padded,
            softmax_scale=softmax_scale,
            band=band,
            variants=names,
            emulator=path.emulator,
        )
    return out[..., : v.shape[-1]], lse


def backward(
    path: Path,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *rest: jax.Array,
    softmax_scale: float,
    band: Band,
    softcap: float = 0.0,
) -> tuple[jax.Array, ...]:
    """The backward custom call, the head dims padded with zeros to what the kernels read.

    `rest` are out, lse, dout, dlse, and then bounds as of `forward`.
    """
    out, lse, dout, dlse, *bounds = rest
    names = path.backward_for(q.shape, k.shape, band)
    operands = pad_operands(Operands(q, k, v, out, dout, lse, dlse))
    if bounds or softcap:
        gradients, _ = backward_bounded_call(
            operands,
            _tables(tuple(bounds), q, k, band),
            softmax_scale=softmax_scale,
            softcap=softcap,
            variants=names,
            emulator=path.emulator,
        )
    else:
        gradients, _ = backward_call(
            operands,
            softmax_scale=softmax_scale,
            band=band,
            variants=names,
            emulator=path.emulator,
        )
    return tuple(dx[..., : x.shape[-1]] for dx, x in zip(gradients, (q, k, v), strict=True))


def _tables(bounds: tuple[jax.Array, ...], q: jax.Array, k: jax.Array, band: Band) -> BoundTables:
    """Of the bounds, or of the band's where there are none."""
    lengths = q.shape[0], q.shape[1], k.shape[1]
    if bounds:
        found = KeyBounds(*bounds)
    else:  # behind a barrier, or XLA would compute them itself, and keep them as constants
        found = KeyBounds(*jax.lax.optimization_barrier(KeyBounds.of_band(band, *lengths)))
    axes = varying_axes(q)
    return BoundTables(*(vary(x, axes) for x in bound_tables(*found)))


def pad_head_dim(x: jax.Array) -> jax.Array:
    """Zeros behind the last dimension, up to the next width that kernels read."""
    missing = -x.shape[-1] % (_ROW_STEP // x.dtype.itemsize)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def pad_operands(operands: Operands) -> Operands:
    """The same with the head dims of all but lse and its cotangent padded."""
    return Operands(*[pad_head_dim(x) if x.ndim == 4 else x for x in operands])
