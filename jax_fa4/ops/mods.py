"""score_mod, mask_mod and dropout: what callers' own functions and chance do to scores.

A mod is traced once, by scalars, to a jaxpr whose constants are the arrays that it captured: those
are operands of the call, so that they have gradients. The portable path evaluates it block by
block; a kernel may compile the same jaxpr.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from jax_fa4.ops import checks, errors
from jax_fa4.ops.jaxprs import evaluate

Function = Callable[..., Any]
_INDICES = 4  # batch, head, query index, key index: the last arguments of every mod


@dataclass(frozen=True, eq=False)
class Mod:
    """A function of ([score,] batch, head, query index, key index), scalars, as its jaxpr."""

    jaxpr: Jaxpr
    is_floating: tuple[bool, ...]  # of the captured arrays, the jaxpr's constants
    uses_batch: bool
    uses_head: bool

    def function(self, floats: tuple[jax.Array, ...], others: tuple[jax.Array, ...]) -> Function:
        """The mod as a function of scalars, with these captured arrays."""
        rest = {True: iter(floats), False: iter(others)}
        constants = [next(rest[kind]) for kind in self.is_floating]
        return lambda *scalars: evaluate(self.jaxpr, constants, *scalars)[0]


class Captured(NamedTuple):
    """The arrays that a mod captured: those with gradients, and all others."""

    floats: tuple[jax.Array, ...] = ()
    others: tuple[jax.Array, ...] = ()


def trace(name: str, function: Function, *, score: Any = None) -> tuple[Mod, Captured]:
    """A checked score_mod (of scores of dtype `score`) or mask_mod (None), and what it captured."""
    if not callable(function):
        raise errors.bad_mod(name, repr(function), "a function")
    scalars = [jax.ShapeDtypeStruct((), jnp.int32)] * _INDICES
    if score is not None:
        scalars = [jax.ShapeDtypeStruct((), score), *scalars]
    _check_parameters(name, function, len(scalars))
    closed, out = jax.make_jaxpr(function, return_shape=True)(*scalars)
    results = jax.tree.leaves(out)
    wanted = jnp.floating if score is not None else jnp.bool_
    is_one = len(results) == 1 and results[0].shape == ()
    if not is_one or not jnp.issubdtype(results[0].dtype, wanted):
        found = ", ".join(f"{x.dtype} of shape {x.shape}" for x in results) or "nothing"
        expected = "one floating-point number" if score is not None else "one boolean"
        raise errors.bad_mod(name, f"a function that returns {found}", expected)
    constants = tuple(map(jnp.asarray, closed.consts))
    floating = tuple(bool(jnp.issubdtype(x.dtype, jnp.inexact)) for x in constants)
    pairs = list(zip(constants, floating, strict=True))
    batch, head = closed.jaxpr.invars[-_INDICES:][:2]
    used = {id(x) for eqn in closed.jaxpr.eqns for x in eqn.invars}
    used |= {id(x) for x in closed.jaxpr.outvars}
    captured = Captured(tuple(x for x, f in pairs if f), tuple(x for x, f in pairs if not f))
    return Mod(closed.jaxpr, floating, id(batch) in used, id(head) in used), captured


def _check_parameters(name: str, function: Function, count: int) -> None:
    """ValueError unless the function takes so many arguments, as far as Python can say."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function in C
        return
    try:
        signature.bind(*range(count))
    except TypeError:
        expected = f"one of {count} arguments"
        raise errors.bad_mod(name, f"a function of parameters {signature}", expected) from None


@dataclass(frozen=True)
class Dropout:
    """Each probability is dropped at `rate`, the others divided by 1 - rate.

    `shared`: all batch elements and heads drop the same ones. `impl` is that of the key.
    """

    rate: float
    impl: str
    shared: bool


def dropout(rate: Any, key: Any, shared: bool) -> tuple[Dropout | None, jax.Array | None]:
    """Checked arguments, and the key's data; None for a rate of 0."""
    rate = checks.dropout_rate(rate)
    if rate == 0:
        return None, None
    if key is None:
        raise errors.no_dropout_key(rate)
    key = jnp.asarray(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape:
        raise errors.wrong_shape("dropout_rng", key.shape, "(), one key")
    return Dropout(rate, str(jax.random.key_impl(key)), shared), jax.random.key_data(key)


@dataclass(frozen=True)
class Mods:
    """What of them a call has, known at trace time."""

    score: Mod | None = None
    mask: Mod | None = None
    dropout: Dropout | None = None

    def __bool__(self) -> bool:
        return self != NO_MODS


class ModArrays(NamedTuple):
    """Their arrays."""

    score: Captured = Captured()
    mask: Captured = Captured()
    dropout_key: jax.Array | None = None


NO_MODS = Mods()


def make(
    score_mod: Function | None,
    mask_mod: Function | None,
    chance: tuple[Dropout | None, jax.Array | None],
    dtype: Any,
) -> tuple[Mods, ModArrays]:
    """Both parts of a call's arguments; `dtype` is that of the inputs."""
    score, scored = (None, Captured())
    if score_mod is not None:
        wide = jnp.promote_types(dtype, jnp.float32)
        score, scored = trace("score_mod", score_mod, score=wide)
    mask, masked = (None, Captured())
    if mask_mod is not None:
        mask, masked = trace("mask_mod", mask_mod)
    return Mods(score, mask, chance[0]), ModArrays(scored, masked, chance[1])


@functools.cache
def layout_axes(layout: str) -> tuple[tuple[int | None, ...], ...]:
    """For each axis of a block, innermost first: what it maps of (score, b, h, i, j)."""
    place = {"b": 1, "h": 2, "g": 2, "i": 3, "j": 4}
    return tuple(
        tuple(0 if n in (0, place[axis]) else None for n in range(5)) for axis in reversed(layout)
    )
