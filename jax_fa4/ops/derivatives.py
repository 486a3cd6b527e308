"""Derivatives of a function whose backward is its own: reverse mode by that, forward mode as well.

jax.custom_vjp has no forward mode. Here a function is a jax.custom_jvp whose rule gives the
tangents of its results by one primitive, linear in those of the arguments: transposed, as reverse
mode does, it is the backward; evaluated, as forward mode does, the forward derivative, which may
be code or a refusal in words.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[jax.Array]


class Linear(abc.ABC):
    """A linear map of tangents to tangents of results, at residuals; hashable and equal by value.

    The last of the residuals are the results, whose types their tangents have.
    """

    results: int

    @abc.abstractmethod
    def forward(self, residuals: Arrays, tangents: Arrays) -> Arrays:
        """Tangents of the results."""

    @abc.abstractmethod
    def backward(self, residuals: Arrays, cotangents: Arrays) -> Arrays:
        """Cotangents of the tangents, of the results'."""


def apply(linear: Linear, residuals: Arrays, tangents: Arrays) -> Arrays:
    """Tangents of the results, to be transposed, mapped or differentiated."""
    found: Arrays = _tangents.bind(*residuals, *tangents, linear=linear, count=len(residuals))
    return found


@dataclass(frozen=True)
class _Mapped(Linear):
    """`one` under jax.vmap, over the first axis of the arrays that `axes` has 0 for; else None."""

    one: Linear
    residual_axes: tuple[int | None, ...]
    tangent_axes: tuple[int | None, ...]

    @property
    def results(self) -> int:  # type: ignore[override]
        return self.one.results

    def forward(self, residuals: Arrays, tangents: Arrays) -> Arrays:
        axes = (list(self.residual_axes), list(self.tangent_axes))
        return _vmap(self.one.forward, axes)(list(residuals), list(tangents))

    def backward(self, residuals: Arrays, cotangents: Arrays) -> Arrays:
        axes = (list(self.residual_axes), 0)
        found = _vmap(self.one.backward, axes)(list(residuals), list(cotangents))
        pairs = zip(found, self.tangent_axes, strict=True)
        return [x.sum(axis=0) if axis is None else x for x, axis in pairs]


def _vmap(function: Callable[..., Arrays], axes: Any) -> Callable[..., Arrays]:
    mapped: Callable[..., Arrays] = jax.vmap(lambda *x: list(function(*x)), axes)
    return mapped


_tangents = Primitive("jax_fa4_tangents")
_tangents.multiple_results = True


def _evaluate(*arrays: jax.Array, linear: Linear, count: int) -> list[jax.Array]:
    return list(linear.forward(arrays[:count], arrays[count:]))


def _types(*avals: Any, linear: Linear, count: int) -> list[Any]:
    return list(avals[count - linear.results : count])


def _transpose(cotangents: Sequence[Any], *arrays: Any, linear: Linear, count: int) -> list[Any]:
    residuals, tangents = arrays[:count], arrays[count:]
    found = linear.backward(residuals, [ad.instantiate_zeros(x) for x in cotangents])
    is_wanted = map(ad.is_undefined_primal, tangents)
    return [None] * count + [
        x if wanted else None for x, wanted in zip(found, is_wanted, strict=True)
    ]


def _map(
    arrays: Arrays, axes: Sequence[int | None], *, linear: Linear, count: int
) -> tuple[Arrays, list[int]]:
    pairs = list(zip(arrays, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    moved = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    mapped = [None if axis is None else 0 for axis in axes]
    for i in range(count - linear.results, count):  # whose types the tangents have
        if mapped[i] is None:
            moved[i] = jnp.broadcast_to(moved[i], (size, *moved[i].shape))
            mapped[i] = 0
    own = _Mapped(linear, tuple(mapped[:count]), tuple(mapped[count:]))
    return apply(own, moved[:count], moved[count:]), [0] * linear.results


def _differentiate(
    primals: Arrays, tangents: Sequence[Any], *, linear: Linear, count: int
) -> tuple[Any, Any]:
    """Of forward mode again, and of a gradient of it."""
    moving = [not isinstance(t, ad.Zero) for t in tangents]

    def run(*own: jax.Array) -> list[jax.Array]:
        rest = iter(own)
        arrays = [next(rest) if m else x for x, m in zip(primals, moving, strict=True)]
        return _evaluate(*arrays, linear=linear, count=count)

    def chosen(x: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(a for a, m in zip(x, moving, strict=True) if m)

    return jax.jvp(run, chosen(primals), chosen(tangents))


# Names of JAX's own guide to primitives, which has no others for this.
_tangents.def_impl(_evaluate)
_tangents.def_abstract_eval(_types)
ad.primitive_transposes[_tangents] = _transpose
ad.primitive_jvps[_tangents] = _differentiate
batching.primitive_batchers[_tangents] = _map
mlir.register_lowering(_tangents, mlir.lower_fun(_evaluate, multiple_results=True))
