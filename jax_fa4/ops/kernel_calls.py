"""The kernels' custom calls on arrays of any head dim: what a device runs on what it holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_fa4.ffi.backward import Operands
from jax_fa4.ffi.backward import backward as backward_call
from jax_fa4.ffi.forward import forward as forward_call
from jax_fa4.ops.band import Band
from jax_fa4.ops.selection import Path

_ROW_STEP = 16  # bytes: the kernels copy rows in such steps


def forward(
    path: Path, q: jax.Array, k: jax.Array, v: jax.Array, *, softmax_scale: float, band: Band
) -> tuple[jax.Array, jax.Array]:
    """The forward custom call, the head dims padded with zeros to what the kernels read."""
    out, lse = forward_call(
        *map(pad_head_dim, (q, k, v)),
        softmax_scale=softmax_scale,
        band=band,
        variants=path.forward_for(q.shape, k.shape, band),
        emulator=path.emulator,
    )
    return out[..., : v.shape[-1]], lse


def backward(
    path: Path, *operands: jax.Array, softmax_scale: float, band: Band
) -> tuple[jax.Array, ...]:
    """The backward custom call, the head dims padded with zeros to what the kernels read."""
    q, k, v, out, lse, dout, dlse = operands
    gradients, _ = backward_call(
        pad_operands(Operands(q, k, v, out, dout, lse, dlse)),
        softmax_scale=softmax_scale,
        band=band,
        variants=path.backward_for(q.shape, k.shape, band),
        emulator=path.emulator,
    )
    return tuple(dx[..., : x.shape[-1]] for dx, x in zip(gradients, (q, k, v), strict=True))


def pad_head_dim(x: jax.Array) -> jax.Array:
    """Zeros behind the last dimension, up to the next width that kernels read."""
    missing = -x.shape[-1] % (_ROW_STEP // x.dtype.itemsize)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def pad_operands(operands: Operands) -> Operands:
    """The same with the head dims of all but lse and its cotangent padded."""
    return Operands(*[pad_head_dim(x) if x.ndim == 4 else x for x in operands])
