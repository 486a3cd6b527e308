"""The differentiable heart of every call: custom_vjp over vmap folding over a choice by platform.

    custom_vjp( custom_jvp( fold_vmap( platform_dependent( cuda = kernel, default = portable ) ) ) )

Residuals are (q, k, v, operands, out, lse). The kernel's custom call sits at the bottom of
this stack (`kernel_calls`): that is where a partitioning rule goes.
The custom_jvp is for second derivatives, which the rules of the custom_vjp are differentiated for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap

from jax_fa4.ops import errors, kernel_calls, manual_axes, portable
from jax_fa4.ops.band import Band
from jax_fa4.ops.batching import fold_vmap
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.ops.scoring import Operands, Scoring
from jax_fa4.ops.selection import Path
from jax_fa4.ops.sinks import include

# What the residuals out and lse are called for jax.checkpoint policies, unless the caller
# names them: jax.checkpoint_policies.save_only_these_names(*CHECKPOINT_NAMES).
CHECKPOINT_NAMES = ("jax_fa4_out", "jax_fa4_lse")


@dataclass(frozen=True)
class Plan:
    """Everything about a call that is known at trace time."""

    softmax_scale: float
    band: Band
    path: Path
    names: tuple[str, str] = CHECKPOINT_NAMES
    softcap: float = 0.0  # of scores; 0 is none

    @property
    def scoring(self) -> Scoring:
        """What the portable path needs of it."""
        return Scoring(self.softmax_scale, self.band, self.softcap)


def checkpoint_names(name: str | None) -> tuple[str, str]:
    """Names of the residuals out and lse: the caller's for both, or CHECKPOINT_NAMES."""
    return CHECKPOINT_NAMES if name is None else (name, name)


def attention(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    bounds: KeyBounds | None = None,
    sinks: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) and lse (B, Hq, Sq) float32 of checked arguments; both differentiable.

    q is (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), bias and mask are (B or 1,
    Hq or 1, Sq or 1, Sk or 1). With `bounds`, which contain it, the plan's band is FULL. sinks
    are (Hq,).
    """
    operands = (q, k, v, Operands(bias, mask, bounds))
    # In shard_map an operand may vary over fewer axes than another. Widened here, outside the
    # custom_vjp, its gradient comes back with the sum over those axes.
    axes = frozenset[Any]().union(*map(manual_axes.varying_axes, jax.tree.leaves(operands)))
    out, lse = _attention(plan, *jax.tree.map(lambda x: manual_axes.vary(x, axes), operands))
    return (out, lse) if sinks is None else include(out, lse, sinks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands
) -> tuple[jax.Array, jax.Array]:
    out, lse = _forward(plan, q, k, v, operands)
    return out, lse


def _attention_fwd(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    out, lse = _forward(plan, q, k, v, operands)
    # Named here, both of them: a policy that saves them never runs the kernel twice.
    name: Callable[[jax.Array, str], jax.Array] = checkpoint_name
    out, lse = name(out, plan.names[0]), name(lse, plan.names[1])
    return (out, lse), (q, k, v, operands, out, lse)


def _attention_bwd(
    plan: Plan, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    found = _backward(plan, *residuals, *cotangents)
    return found.q, found.k, found.v, Operands(bias=found.bias)


_attention.defvjp(_attention_fwd, _attention_bwd)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _forward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands
) -> tuple[jax.Array, jax.Array]:
    kernel = functools.partial(
        kernel_calls.forward,
        plan.path,
        softmax_scale=plan.softmax_scale,
        band=plan.band,
        softcap=plan.softcap,
    )

    def portable_forward(q: jax.Array, k: jax.Array, v: jax.Array, *bounds: jax.Array) -> Any:
        return _portable_forward(plan, q, k, v, _with_bounds(operands, bounds))

    has_kernel = plan.path.is_kernel and 0 not in (*q.shape, *k.shape)
    out, lse = _run(
        plan.path,
        kernel if has_kernel else None,
        portable_forward,
        (q, k, v, *(operands.bounds or ())),
        folds=_folds(operands),
    )
    return out, lse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands, *rest: jax.Array
) -> portable.Gradients:
    kernel = functools.partial(
        kernel_calls.backward,
        plan.path,
        softmax_scale=plan.softmax_scale,
        band=plan.band,
        softcap=plan.softcap,
    )

    def portable_backward(q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> Any:
        rest, bounds = rest[:_RESULTS], rest[_RESULTS:]
        return _portable_backward(plan, q, k, v, _with_bounds(operands, bounds), *rest)

    has_kernel = bool(plan.path.backward) and 0 not in (*q.shape, *k.shape)
    found = _run(
        plan.path,
        None if not has_kernel else lambda *args: portable.Gradients(*kernel(*args)),
        portable_backward,
        (q, k, v, *rest, *(operands.bounds or ())),
        folds=_folds(operands),
    )
    return portable.Gradients(*found)


_RESULTS = 4  # out, lse and their cotangents


def _run(
    path: Path,
    kernel: Callable[..., Any] | None,
    portable_function: Callable[..., Any],
    args: tuple[jax.Array, ...],
    *,
    folds: bool,
) -> Any:
    """The kernel where the platform has it, else the portable code; vmap by folding."""

    def compute(*args: jax.Array) -> Any:
        if kernel is None:
            return portable_function(*args)
        if path.emulator is not None:
            return kernel(*args)
        return lax.platform_dependent(*args, cuda=kernel, default=portable_function)

    return fold_vmap(compute)(*args) if folds else _mapped_alike(*compute(*args))


@custom_vmap
def _mapped_alike(*results: Any) -> Any:
    """The results; under vmap all of them are mapped.

    lse does not depend on v. Unmapped beside an out that is, it would get a cotangent that is the
    sum of all maps' in the gradient of each.
    """
    return results


@_mapped_alike.def_vmap
def _map_alike(size: int, mapped: Any, *results: Any) -> Any:
    leaves, tree = jax.tree.flatten(results)
    flags = jax.tree.leaves(mapped)
    found = [
        x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
        for x, is_mapped in zip(leaves, flags, strict=True)
    ]
    found = jax.tree.unflatten(tree, found)
    return _mapped_alike(*found), jax.tree.map(lambda _: True, found)


def _folds(operands: Operands) -> bool:
    """Whether every operand has the batch axis: a bias or mask may be shared by the batch."""
    return operands.bias is None and operands.mask is None


def _with_bounds(operands: Operands, bounds: tuple[jax.Array, ...]) -> Operands:
    return operands._replace(bounds=KeyBounds(*bounds)) if bounds else operands


def _portable_forward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands
) -> tuple[jax.Array, jax.Array]:
    return portable.forward(q, k, v, plan.scoring, operands)


def _portable_backward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands, *rest: jax.Array
) -> portable.Gradients:
    out, lse, dout, dlse = rest
    residuals = portable.Residuals(lse, dout, portable.row_delta(out, dout, dlse))
    return portable.backward(q, k, v, residuals, plan.scoring, operands)


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
    bounds: KeyBounds | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq, dk, dv) through keys that may be only some of those that the queries attend.

    `results` are out and lse of all keys, `cotangents` theirs: P = exp(S - lse) is each key's
    share of the whole softmax, and the dq of several such calls add up (`jax_fa4.parallel.ring`).
    """
    found = _backward(plan, q, k, v, Operands(bounds=bounds), *results, *cotangents)
    return found.q, found.k, found.v
