"""The differentiable heart of every call: custom_vjp over vmap folding over a choice by platform.

    custom_vjp( custom_jvp( fold_vmap( platform_dependent( cuda = kernel, default = portable ) ) ) )

Residuals are (q, k, v, bias, mask, out, lse). The kernel's custom call sits at the bottom of
this stack (`kernel_calls`): that is where a partitioning rule goes.
The custom_jvp is for second derivatives, which the rules of the custom_vjp are differentiated for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jax_fa4.ops import errors, kernel_calls, manual_axes, portable
from jax_fa4.ops.band import Band
from jax_fa4.ops.batching import fold_vmap
from jax_fa4.ops.selection import Path

# What the residuals out and lse are called for jax.checkpoint policies, unless the caller
# names them: jax.checkpoint_policies.save_only_these_names(*CHECKPOINT_NAMES).
CHECKPOINT_NAMES = ("jax_fa4_out", "jax_fa4_lse")

Dense = jax.Array | None


@dataclass(frozen=True)
class Plan:
    """Everything about a call that is known at trace time."""

    softmax_scale: float
    band: Band
    path: Path
    names: tuple[str, str] = CHECKPOINT_NAMES


def checkpoint_names(name: str | None) -> tuple[str, str]:
    """Names of the residuals out and lse: the caller's for both, or CHECKPOINT_NAMES."""
    return CHECKPOINT_NAMES if name is None else (name, name)


def attention(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, bias: Dense = None, mask: Dense = None
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) and lse (B, Hq, Sq) float32 of checked arguments; both differentiable.

    q is (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), bias and mask are (B or 1,
    Hq or 1, Sq or 1, Sk or 1).
    """
    operands = [x for x in (q, k, v, bias, mask) if x is not None]
    # In shard_map an operand may vary over fewer axes than another. Widened here, outside the
    # custom_vjp, its gradient comes back with the sum over those axes.
    axes = frozenset[Any]().union(*map(manual_axes.varying_axes, operands))
    q, k, v = (manual_axes.vary(x, axes) for x in (q, k, v))
    bias, mask = (None if x is None else manual_axes.vary(x, axes) for x in (bias, mask))
    out, lse = _attention(plan, q, k, v, bias, mask)
    return out, lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, bias: Dense, mask: Dense
) -> tuple[jax.Array, jax.Array]:
    out, lse = _forward(plan, q, k, v, bias, mask)
    return out, lse


def _attention_fwd(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, bias: Dense, mask: Dense
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    out, lse = _forward(plan, q, k, v, bias, mask)
    # Named here, both of them: a policy that saves them never runs the kernel twice.
    name: Callable[[jax.Array, str], jax.Array] = checkpoint_name
    out, lse = name(out, plan.names[0]), name(lse, plan.names[1])
    return (out, lse), (q, k, v, bias, mask, out, lse)


def _attention_bwd(
    plan: Plan, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, Dense, None]:
    dq, dk, dv, dbias = _backward(plan, *residuals, *cotangents)
    return dq, dk, dv, dbias, None


_attention.defvjp(_attention_fwd, _attention_bwd)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _forward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, bias: Dense, mask: Dense
) -> tuple[jax.Array, jax.Array]:
    def compute(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        def portable_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
            return _portable_forward(plan, q, k, v, bias, mask)

        if not plan.path.is_kernel or 0 in q.shape or 0 in k.shape:
            return portable_forward(q, k, v)
        kernel = functools.partial(
            kernel_calls.forward, plan.path, softmax_scale=plan.softmax_scale, band=plan.band
        )
        if plan.path.emulator is not None:
            return kernel(q, k, v)
        return lax.platform_dependent(q, k, v, cuda=kernel, default=portable_forward)

    # A bias or mask may be shared by the batch, so those calls leave vmap to lax.
    folded = fold_vmap(compute) if bias is None and mask is None else compute
    out, lse = folded(q, k, v)
    return out, lse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: Dense,
    mask: Dense,
    *rest: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, Dense]:
    def compute(q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> Any:
        def portable_backward(q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> Any:
            gradients = _portable_backward(plan, q, k, v, bias, mask, *rest)
            return gradients if bias is not None else gradients[:3]

        if not plan.path.backward or 0 in q.shape or 0 in k.shape:
            return portable_backward(q, k, v, *rest)
        kernel = functools.partial(
            kernel_calls.backward, plan.path, softmax_scale=plan.softmax_scale, band=plan.band
        )
        if plan.path.emulator is not None:
            return kernel(q, k, v, *rest)
        return lax.platform_dependent(q, k, v, *rest, cuda=kernel, default=portable_backward)

    if bias is None and mask is None:
        return (*fold_vmap(compute)(q, k, v, *rest), None)
    gradients = compute(q, k, v, *rest)
    return gradients if bias is not None else (*gradients, None)


def _portable_forward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, bias: Dense, mask: Dense
) -> tuple[jax.Array, jax.Array]:
    return portable.forward(
        q, k, v, softmax_scale=plan.softmax_scale, band=plan.band, bias=bias, mask=mask
    )


def _portable_backward(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: Dense,
    mask: Dense,
    *rest: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, Dense]:
    out, lse, dout, dlse = rest
    return portable.backward(
        q,
        k,
        v,
        lse,
        dout,
        portable.row_delta(out, dout, dlse),
        softmax_scale=plan.softmax_scale,
        band=plan.band,
        bias=bias,
        mask=mask,
    )


def _second_derivative(
    portable_function: Callable[..., Any], plan: Plan, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """Derivatives of the portable code without fold_vmap, of which jax.vmap takes care here."""
    if plan.path.is_kernel:
        raise errors.no_second_derivative()
    primals_out, tangents_out = jax.jvp(
        functools.partial(portable_function, plan), primals, tangents
    )
    return primals_out, tangents_out


_forward.defjvp(functools.partial(_second_derivative, _portable_forward))
_backward.defjvp(functools.partial(_second_derivative, _portable_backward))


def gradients(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    results: tuple[jax.Array, jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq, dk, dv) through keys that may be only some of those that the queries attend.

    `results` are out and lse of all keys, `cotangents` theirs: P = exp(S - lse) is each key's
    share of the whole softmax, and the dq of several such calls add up (`jax_fa4.parallel.ring`).
    """
    dq, dk, dv, _ = _backward(plan, q, k, v, None, None, *results, *cotangents)
    return dq, dk, dv
