"""FlashAttention-3 as flash-attn3-jax binds it, with room for all that its backward writes.

With a full mask and a head dim of 128 (or less: its wheel pads) its backward has tiles of 80
queries, and writes two numbers a row for whole tiles. Its wrapper (0.2.3) makes room for the length
rounded up to 128: at 512, 2048, 8192 and 16384 less than is written. What lies behind is
overwritten, then overwrites: NaN in the gradients, or in another program's arrays. So the gradient
calls the wheel's own target here, with larger results; kernels and the forward are untouched.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

Residuals = tuple[jax.Array, ...]

TILES = (64, 80, 96, 128)  # of queries, by head dim and mask
TARGET = "flash_mha_bwd"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Softmax attention over (B, S, H, D) by FlashAttention-3, scaled by 1 / sqrt(D)."""
    return _forward(q, k, v, causal)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> tuple[jax.Array, Residuals]:
    if v.shape[-1] != q.shape[-1]:
        # Its wrapper makes the output as wide as Q, whatever V is.
        raise NotImplementedError(f"values have head dim {v.shape[-1]}, queries {q.shape[-1]}")
    from flash_attn3_jax import flash

    # The public function keeps lse to itself.
    out, lse = flash._flash_mha_fwd(q, k, v, _scale(q), causal, (-1, -1))
    return out, (q, k, v, out, lse)


def _backward(causal: bool, residuals: Residuals, dout: jax.Array) -> tuple[jax.Array, ...]:
    q, k, v, out, lse = residuals
    batch, length, heads, _ = q.shape
    rows = max(-(-length // tile) * tile for tile in TILES)
    room = jax.ShapeDtypeStruct((batch, heads, rows), jnp.float32)
    results: list[Any] = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    absent = [jnp.zeros((0,), jnp.int32)] * 4  # packed sequences
    dq, dk, dv, _, _ = jax.ffi.ffi_call(TARGET, [*results, room, room])(
        *(dout, q, k, v, out, lse, *absent),
        max_seqlen_q_val=length,
        max_seqlen_q_has_value=True,
        max_seqlen_k_val=k.shape[1],
        max_seqlen_k_has_value=True,
        softmax_scale_val=_scale(q),
        softmax_scale_has_value=True,
        is_causal=causal,
        window_size_left=-1,
        window_size_right=-1,
        softcap=0.0,
        deterministic=False,
        sm_margin=0,
    )
    return dq, dk, dv


def _scale(q: jax.Array) -> float:
    return 1.0 / math.sqrt(q.shape[-1])


attend.defvjp(_forward, _backward)
