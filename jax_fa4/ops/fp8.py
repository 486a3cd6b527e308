"""Attention of 8-bit floats with a scale for every batch element and head: forward only.

    S = softmax_scale * (query_descale Q) (key_descale K)^T,  out = value_descale * softmax(S) V

The descales belong to heads of keys, as quantisation by groups gives them; products accumulate
in float32, and out is bfloat16, for which e4m3 has too few digits. On Blackwell it is a kernel of
its own; everywhere else the portable path.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_fa4.ffi.forward import forward as forward_call
from jax_fa4.ops import errors, manual_axes, partition, portable
from jax_fa4.ops.band import Band
from jax_fa4.ops.core import RESULTS, Plan
from jax_fa4.ops.kernel_calls import pad_head_dim
from jax_fa4.ops.scoring import Operands, Scoring

OUT_DTYPE = jnp.bfloat16
# Letters of `layout`.
_OPERANDS = ("bthd", "bskd", "bske", "bk", "bk", "bk")


class Descales(NamedTuple):
    """What query, key and value are to be multiplied by: float32, (B, Hkv) each."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


def portable_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, *descales: jax.Array, scoring: Scoring
) -> tuple[jax.Array, jax.Array]:
    """The portable path: bfloat16 holds every number of e4m3, and rounds P more finely."""
    query, key, value = descales
    return portable.forward(
        q.astype(OUT_DTYPE),
        k.astype(OUT_DTYPE),
        v.astype(OUT_DTYPE),
        scoring,
        Operands(score_scale=query * key, value_scale=value),
    )


def attention(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, descales: Descales
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) bfloat16 and lse (B, Hq, Sq) float32 of checked arguments.

    q is (B, Sq, Hq, D), k (B, Sk, Hkv, D) and v (B, Sk, Hkv, Dv), all float8_e4m3fn.
    """
    operands = (q, k, v, *descales)
    axes = frozenset[Any]().union(*map(manual_axes.varying_axes, operands))
    varying = [manual_axes.vary(x, axes) for x in operands]
    out, lse = _attention(plan, *partition.settle(varying, _OPERANDS))
    return out, lse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attention(plan: Plan, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    out, lse = _forward(plan, *operands)
    return out, lse


@_attention.defjvp
def _no_gradient(plan: Plan, primals: Any, tangents: Any) -> Any:
    raise errors.no_fp8_gradient()


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _forward(plan: Plan, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    def portable(band: Band, *operands: jax.Array) -> Any:
        return portable_forward(*operands, scoring=plan.scoring(band))

    q, k = operands[:2]
    has_kernel = plan.path.is_kernel and 0 not in (*q.shape, *k.shape)
    function = partition.Function(
        portable,
        functools.partial(_kernel_forward, plan) if has_kernel else None,
        emulated=plan.path.emulator is not None,
        name=plan,
    )
    out, lse = partition.run(function, plan.band, operands, _OPERANDS, RESULTS)
    return out, lse


def _kernel_forward(
    plan: Plan, band: Band, q: jax.Array, k: jax.Array, v: jax.Array, *descales: jax.Array
) -> tuple[jax.Array, jax.Array]:
    out, lse = forward_call(
        *map(pad_head_dim, (q, k, v)),
        descales=descales,
        softmax_scale=plan.softmax_scale,
        band=band,
        variants=plan.path.forward_for(q.shape, k.shape, band),
        emulator=plan.path.emulator,
    )
    return out[..., : v.shape[-1]], lse
