"""Runs a problem under its transform and compares with the definition."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from jax_fa4.testing import tolerances
from tests.fuzz import arguments, definition, meshes, paths, problem
from tests.fuzz.problem import Problem

Arrays = dict[str, np.ndarray]

# Arguments that a call is differentiated by.
_DIFFERENTIATED = ("q", "k", "v", "bias", "sinks", "gain", "tilt")


def check(asked: Problem, implementation: str) -> str:
    """ "right", and on which path, or "refused"; AssertionError if the call did anything else."""
    path = paths.explained(asked, implementation)
    chosen = implementation
    if implementation == "fa4" and not path.forward:
        chosen = None  # what "fa4" refuses, or has nothing to run for, the portable path takes
    try:
        found = results(asked, chosen, path)
    except NotImplementedError as error:
        words = str(error)
    else:
        tolerances.check(_as_precise_as_their_terms(found, asked), *expected(asked))
        return f"right, {path}"
    assert "not supported yet" in words or implementation != "xla", f"refused: {words}"
    assert any(way in words for way in ("leave", "pass", "use", "cast")), f"no way out: {words}"
    return "refused"


def _as_precise_as_their_terms(found: Arrays, asked: Problem) -> Arrays:
    """Float32 sums of what rounds to the dtype of the inputs, as results of that dtype.

    The rule's floor is an ulp of a result's dtype, and these have the terms' error in float32.
    """
    names = {"dbias", "dsinks", "dgain", "dtilt"} & set(found)
    return found | {name: found[name].astype(jnp.dtype(asked.dtype)) for name in names}


def call(asked: Problem, implementation: str | None) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The call as a function of what it is differentiated by, and of the other arrays.

    Returns out and lse (B, N, T), whichever of the functions it is.
    """
    function = getattr(jax_fa4, asked.entry)

    def flash(x: Any, constant: Any) -> tuple[Any, Any]:
        options = arguments.options(asked, x | constant) | {"implementation": implementation}
        return function(x["q"], x["k"], x["v"], **options, return_lse=True)

    def varlen(x: Any, constant: Any) -> tuple[Any, Any]:
        out, lse = flash({name: a[0] if name in "qkv" else a for name, a in x.items()}, constant)
        return out[None], lse[None]

    def dot_product(x: Any, constant: Any) -> tuple[Any, Any]:
        options = arguments.options(asked, x | constant) | {"implementation": implementation}
        arrays = (x["q"], x["k"], x["v"], x.get("bias"), constant.get("mask"))
        out, lse = function(*arrays, **options, return_residual=True)
        return out, lse.swapaxes(-1, -2)

    entries = {"flash_attention": flash, "flash_attention_varlen": varlen}
    return entries.get(asked.entry, dot_product)


def results(
    asked: Problem, implementation: str | None, path: paths.Path = paths.PORTABLE
) -> Arrays:
    """out, lse and gradients, as the package gives them; AssertionError if not by `path`."""
    parts = _mapped_arrays(asked) if asked.transform == "vmap" else [problem.arrays(asked)]
    x = parts[0]
    mapped = _mapped_names(asked)
    x |= {name: np.stack([part[name] for part in parts]) for name in mapped}
    variable = {name: x[name] for name in _DIFFERENTIATED if name in x}
    constant = {name: a for name, a in x.items() if name not in (*variable, "dout", "dlse")}
    function = call(asked, implementation)
    if asked.transform == "vmap":
        axes = {name: 0 if name in mapped else None for name in variable}
        function = jax.vmap(function, in_axes=(axes, None))
    if asked.transform == "remat":
        function = jax.checkpoint(function)

    def run(variable: Any, constant: Any, dout: Any, dlse: Any) -> tuple[Any, Any, Any]:
        if not asked.gradients:
            return *function(variable, constant), {}
        values, pull = jax.vjp(lambda a: function(a, constant), variable)
        return *values, pull((dout, dlse))[0]

    given = (variable, constant, x["dout"], x["dlse"])
    if asked.transform == "sharded":
        given = jax.tree.map(functools.partial(meshes.shard, asked.seed), given)
    runs: Callable[..., Any] = run
    if asked.transform != "eager":
        runs = jax.jit(run).lower(*given).compile()
        path.check(runs.as_text())
    out, lse, gradients = runs(*given)
    found = {"out": out, "lse": lse} | {f"d{name}": a for name, a in gradients.items()}
    return {name: np.asarray(a) for name, a in found.items()}


def expected(asked: Problem) -> tuple[Arrays, Arrays]:
    """`exact` and `plain` of what `results` returns."""
    mapped = asked.transform == "vmap"
    parts = _mapped_arrays(asked) if mapped else [problem.arrays(asked)]
    given = [problem.inputs(asked, part) for part in parts]
    dtype = jnp.dtype(asked.dtype)
    exact = [definition.exact(x) for x in given]
    plain = [definition.plain(x, dtype, found) for x, found in zip(given, exact, strict=True)]
    if not mapped:
        return exact[0], plain[0]
    return _together(asked, exact), _together(asked, plain)


def _together(asked: Problem, parts: list[Arrays]) -> Arrays:
    """Results of a vmapped call: stacked, but gradients of what is shared are sums."""
    together = {}
    kept = {"out", "lse", *(f"d{name}" for name in _mapped_names(asked))}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name in kept:
            together[name] = np.stack(values)
        elif name.endswith("_terms") and name.removesuffix("_terms") in kept:
            together[name] = max(values)
        else:
            together[name] = sum(values[1:], start=values[0])
    return together


def _mapped_names(asked: Problem) -> tuple[str, ...]:
    if asked.transform != "vmap":
        return ()
    chosen = (name for name, kept in zip("qkv", asked.mapped, strict=True) if kept)
    return (*chosen, "dout", "dlse")


def _mapped_arrays(asked: Problem) -> list[Arrays]:
    """The arrays of each index of the mapped axis; those not mapped are the same in both."""
    first = problem.arrays(asked)
    other = problem.arrays(dataclasses.replace(asked, seed=asked.seed + 1))
    return [first, first | {name: other[name] for name in _mapped_names(asked)}]
