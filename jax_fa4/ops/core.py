"""The differentiable heart of every call: its rules over what meshes and vmap make of a kernel.

    derivatives( custom_jvp( partition.run( kernel or portable ) ) )

Residuals are (q, k, v, operands, out, lse). What lies below, vmap, meshes and the choice by
platform, is `partition`'s.
The inner custom_jvp is for second derivatives, which the outer rules are differentiated for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jax_fa4.ops import (
    derivatives,
    errors,
    forward_mode,
    kernel_calls,
    manual_axes,
    partition,
    portable,
)
from jax_fa4.ops.band import Band
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.ops.mods import NO_MODS, Captured, ModArrays, Mods
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
    mods: Mods = NO_MODS  # on the portable path alone

    def scoring(self, band: Band | None = None) -> Scoring:
        """What the portable path needs of it, with another band if one is given."""
        band = self.band if band is None else band
        return Scoring(self.softmax_scale, band, self.softcap, self.mods)

    def kernel_options(self) -> dict[str, Any]:
        """What a kernel needs of it beside the band."""
        return {"softmax_scale": self.softmax_scale, "softcap": self.softcap}


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
    mods: ModArrays | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) and lse (B, Hq, Sq) float32 of checked arguments; both differentiable.

    q is (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), bias and mask are (B or 1,
    Hq or 1, Sq or 1, Sk or 1). With `bounds`, which contain it, the plan's band is FULL. sinks
    are (Hq,), and `mods` the arrays of the plan's.
    """
    call = _Call.make(q, k, v, Operands(bias, mask, bounds, mods=mods))
    # In shard_map an operand may vary over fewer axes than another. Widened here, outside of the
    # rules, its gradient comes back with the sum over those axes.
    axes = frozenset[Any]().union(*map(manual_axes.varying_axes, call.arrays))
    arrays = partition.settle([manual_axes.vary(x, axes) for x in call.arrays], call.dims)
    out, lse = _attention(plan, *call.unflatten(arrays))
    return (out, lse) if sinks is None else include(out, lse, sinks)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attention(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands
) -> tuple[jax.Array, jax.Array]:
    out, lse = _forward(plan, q, k, v, operands)
    return out, lse


@functools.partial(_attention.defjvp, symbolic_zeros=True)
def _attention_jvp(
    plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    out, lse = _forward(plan, *primals)
    # Named here, both of them: a policy that saves them never runs the kernel twice.
    name: Callable[[jax.Array, str], jax.Array] = checkpoint_name
    out, lse = name(out, plan.names[0]), name(lse, plan.names[1])
    arrays, structure = jax.tree.flatten(primals)
    given = [(i, t) for i, t in enumerate(jax.tree.leaves(tangents)) if isinstance(t, jax.Array)]
    moving = tuple(i for i, _ in given)
    linear = _Derivative(plan, structure, moving)
    dout, dlse = derivatives.apply(linear, (*arrays, out, lse), [t for _, t in given])
    return (out, lse), (dout, dlse)


@dataclass(frozen=True)
class _Derivative(derivatives.Linear):
    """Of the results by those arrays of (q, k, v, operands) that `moving` counts."""

    plan: Plan
    structure: Any
    moving: tuple[int, ...]
    results = 2

    def forward(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> Sequence[Any]:
        if self.plan.path.is_kernel:
            raise errors.no_forward_mode()
        arrays = residuals[:-2]
        dims = _Call.make(*jax.tree.unflatten(self.structure, arrays)).dims
        own = forward_mode.Directions(self.plan, self.structure, self.moving, dims, RESULTS)
        found: Sequence[Any] = forward_mode.tangents(own, arrays, tangents)
        return found

    def backward(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        primals = jax.tree.unflatten(self.structure, residuals[:-2])
        found = _backward(self.plan, *primals, *residuals[-2:], *cotangents)
        mods = ModArrays(Captured(found.captured)) if self.plan.mods else None
        gradients = (found.q, found.k, found.v, Operands(bias=found.bias, mods=mods))
        by_path = dict(jax.tree.leaves_with_path(gradients))
        found_at = [by_path.get(path) for path, _ in jax.tree.leaves_with_path(primals)]
        # What is not there has no gradient: a number that a mask_mod compares with.
        return [
            jnp.zeros_like(residuals[i]) if (x := found_at[i]) is None else x for i in self.moving
        ]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _forward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands
) -> tuple[jax.Array, jax.Array]:
    def portable_forward(band: Band, *args: jax.Array) -> Any:
        q, k, v, operands = call.unflatten(args)
        return _portable_forward(plan, q, k, v, operands, band)

    def kernel(band: Band, *args: jax.Array) -> Any:
        return kernel_calls.forward(plan.path, *args, band=band, **plan.kernel_options())

    call = _Call.make(q, k, v, operands)
    has_kernel = plan.path.is_kernel and 0 not in (*q.shape, *k.shape)
    if plan.mods:
        whole = functools.partial(portable_forward, plan.band)
        out, lse = partition.run_whole(whole, call.arrays, call.dims, RESULTS)
        return out, lse
    function = _function(plan, portable_forward, kernel if has_kernel else None)
    out, lse = partition.run(function, plan.band, call.arrays, call.dims, RESULTS)
    return out, lse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands, *rest: jax.Array
) -> portable.Gradients:
    def portable_backward(band: Band, *args: jax.Array) -> Any:
        found = _portable_backward(plan, *call.unflatten(args[4:]), *args[:4], band=band)
        return tuple(jax.tree.leaves(found))

    def kernel(band: Band, *args: jax.Array) -> Any:
        (q, k, v, *bounds), rest = args[4:], args[:4]
        return kernel_calls.backward(
            plan.path, q, k, v, *rest, *bounds, band=band, **plan.kernel_options()
        )

    call = _Call.make(q, k, v, operands)
    has_kernel = bool(plan.path.backward) and 0 not in (*q.shape, *k.shape)
    arrays, dims = (*rest, *call.arrays), (*RESULTS, *RESULTS, *call.dims)
    floats = () if operands.mods is None else operands.mods.score.floats
    like = portable.Gradients(q, k, v, operands.bias, floats)
    results = (*call.dims[: 3 if operands.bias is None else 4], *("" for _ in floats))
    if plan.mods:
        whole = functools.partial(portable_backward, plan.band)
        leaves = partition.run_whole(whole, arrays, dims, results)
    else:
        function = _function(plan, portable_backward, kernel if has_kernel else None)
        leaves = partition.run(function, plan.band, arrays, dims, results)
    found: portable.Gradients = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return found


# Letters of out and lse, and of their cotangents, for `layout`.
RESULTS = ("bthe", "bht")


@dataclass(frozen=True)
class _Call:
    """A call's arrays in a row, q, k and v the first, and the letters of each."""

    arrays: tuple[jax.Array, ...]
    dims: tuple[str, ...]
    structure: Any

    @classmethod
    def make(cls, q: jax.Array, k: jax.Array, v: jax.Array, operands: Operands) -> _Call:
        arrays, structure = jax.tree.flatten((q, k, v, operands))
        return cls(tuple(arrays), ("bthd", "bskd", "bske", *operands.dims()), structure)

    def unflatten(self, arrays: Sequence[jax.Array]) -> Any:
        """q, k, v and operands again, of arrays like these: a device's parts of them."""
        return jax.tree.unflatten(self.structure, arrays)


def _function(
    plan: Plan, portable_function: Callable[..., Any], kernel: Callable[..., Any] | None
) -> partition.Function:
    emulated = plan.path.emulator is not None
    return partition.Function(portable_function, kernel, emulated=emulated, name=plan)


def _portable_forward(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    operands: Operands,
    band: Band | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Of all rows, or of those that a device holds, which have a band of their own."""
    return portable.forward(q, k, v, plan.scoring(band), operands)


def _portable_backward(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    operands: Operands,
    *rest: jax.Array,
    band: Band | None = None,
) -> portable.Gradients:
    out, lse, dout, dlse = rest
    residuals = portable.Residuals(lse, dout, portable.row_delta(out, dout, dlse))
    return portable.backward(q, k, v, residuals, plan.scoring(band), operands)


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
