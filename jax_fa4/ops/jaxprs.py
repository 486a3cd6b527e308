"""Evaluation of a traced function among arrays of other types than it was traced among."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr, Literal

from jax_fa4.ops.manual_axes import vary, varying_axes

_JITS = ("jit", "pjit")


def evaluate(jaxpr: Jaxpr, constants: Sequence[Any], *arguments: Any) -> list[Any]:
    """The jaxpr's results, operation by operation, in the context of now.

    `jax.extend.core.jaxpr_as_fun` takes the context of then: types of shardings that the constants
    need not have any more. And inside `jax.shard_map(check_vma=True)` the operands of an operation
    have to vary over the same axes, to which the jaxpr widens those that did not when it was
    traced. The constants may vary over more now, so here every operation gets operands widened to
    each other, and what the jaxpr says of it is left out.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else values[x]

    for eqn in jaxpr.eqns:
        results = _apply(eqn, [read(x) for x in eqn.invars])
        values |= zip(eqn.outvars, results, strict=True)
    return [read(x) for x in jaxpr.outvars]


def _apply(eqn: Any, operands: list[Any]) -> list[Any]:
    if eqn.primitive.name == "pvary":
        return operands
    if eqn.primitive.name in _JITS:
        inner = eqn.params["jaxpr"]
        return evaluate(inner.jaxpr, inner.consts, *operands)
    axes = frozenset[Any]().union(*map(varying_axes, operands))
    operands = [vary(x, axes) for x in operands]
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair in jax 0.9
    found = eqn.primitive.bind(*functions, *operands, **params)
    return list(found) if eqn.primitive.multiple_results else [found]
