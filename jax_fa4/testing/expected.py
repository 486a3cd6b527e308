"""What a call should return, and what it does: exact, by the plain formulas, and ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jax_fa4.ops import reference
from jax_fa4.ops.band import Band
from jax_fa4.testing.exact import Arrays, exact
from jax_fa4.testing.inputs import Case, Inputs

Attention = Callable[..., tuple[jax.Array, jax.Array]]
Dense = jax.Array | None

# Results in the order that the functions below return them; lse is (B, H, Sq).
_NAMES = ("out", "lse", "dq", "dk", "dv", "dbias")


def both(
    inputs: Inputs,
    case: Case,
    *,
    descales: reference.Descales | None = None,
    gradients: bool = False,
) -> tuple[Arrays, Arrays]:
    """`exact` and `plain` of a case."""
    options: dict[str, Any] = {"softmax_scale": case.scale, "band": case.band, "descales": descales}
    return exact(inputs, **options), plain(inputs, gradients=gradients, **options)


def plain(
    inputs: Inputs,
    *,
    softmax_scale: float,
    band: Band,
    bias: Dense = None,
    mask: Dense = None,
    descales: reference.Descales | None = None,
    softcap: float = 0.0,
    gradients: bool = False,
) -> Arrays:
    """Results of the plain formulas, on all scores at once, in the precision of the inputs."""
    scalars = (softmax_scale, band, softcap)
    return _named(_plain(inputs, bias, mask, descales, scalars, gradients))


def results(
    attention: Attention, inputs: Inputs, bias: Dense = None, *, gradients: bool = False
) -> Arrays:
    """out and lse of `attention(q, k, v)`, with `bias=` if there is one, and their gradients."""
    run = jax.jit(functools.partial(_results, attention, gradients=gradients))
    return _named(run(inputs, bias))


@functools.partial(jax.jit, static_argnums=(4, 5))
def _plain(
    inputs: Inputs,
    bias: Dense,
    mask: Dense,
    descales: reference.Descales | None,
    scalars: tuple[float, Band, float],
    gradients: bool,
) -> tuple[jax.Array, ...]:
    q, k, v, dout, dlse = inputs
    names = ("softmax_scale", "band", "softcap")
    options: dict[str, Any] = dict(zip(names, scalars, strict=True))
    out, lse = reference.attention(q, k, v, bias=bias, mask=mask, descales=descales, **options)
    if not gradients:
        return out, lse
    residuals = (q, k, v, out, lse)
    grads = reference.gradients(*residuals, dout, dlse, bias=bias, mask=mask, **options)
    return out, lse, *grads


def _results(
    attention: Attention, inputs: Inputs, bias: Dense, *, gradients: bool
) -> tuple[jax.Array, ...]:
    operands = (*inputs[:3],) if bias is None else (*inputs[:3], bias)

    def call(q: jax.Array, k: jax.Array, v: jax.Array, *dense: jax.Array) -> Any:
        return attention(q, k, v, bias=dense[0]) if dense else attention(q, k, v)

    if not gradients:
        values: tuple[jax.Array, ...] = call(*operands)
        return values
    values, pull = jax.vjp(call, *operands)
    return *values, *pull((inputs.dout, inputs.dlse))


def _named(found: tuple[jax.Array, ...]) -> Arrays:
    return {name: np.asarray(x) for name, x in zip(_NAMES, found, strict=False)}
