"""Is a contestant right? Its timed outputs against a float32 reference, on one head.

A wrong kernel can be fast, so nothing is reported without this: the last batch and head
of the first and last outputs that the timed program returned, forward and gradients.
The error ||x - ref|| / ||ref|| may be at most twice that of the plain computation in the
contestants' own precision, plus half a bf16 ulp (2^-9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

FLOOR = 2.0**-9
NAMES = ("out", "dq", "dk", "dv")


def one_head(array: jax.Array) -> jax.Array:
    """(S, D): the last batch and head of a (B, S, H, D) array."""
    return array[-1, :, -1, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _round_gradient(scores: jax.Array, dtype: str) -> jax.Array:
    """scores; their gradient is rounded to `dtype`, as it is before it meets Q and K."""
    return scores


def _round_gradient_bwd(dtype: str, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient.astype(dtype).astype(gradient.dtype),)


_round_gradient.defvjp(lambda scores, dtype: (scores, None), _round_gradient_bwd)


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v of one head, products in the inputs' precision."""
    scores = jnp.matmul(
        q, k.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    ) / math.sqrt(q.shape[-1])
    scores = _round_gradient(scores, q.dtype.name)
    if causal:
        rows = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        columns = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        scores = jnp.where(columns <= rows, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.matmul(
        weights, v, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    ).astype(q.dtype)


def _compute(arrays: Sequence[jax.Array], causal: bool, backward: bool) -> tuple[jax.Array, ...]:
    q, k, v, g = arrays
    if not backward:
        return (_attention(q, k, v, causal),)
    out, vjp = jax.vjp(lambda q, k, v: _attention(q, k, v, causal), q, k, v)
    return (out, *vjp(g))


def _reference(
    inputs: Sequence[jax.Array], causal: bool, backward: bool
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Of the last head: the truth in float32, and what the plain computation makes of it."""
    arrays = [one_head(array) for array in inputs]
    truth = _compute([array.astype(jnp.float32) for array in arrays], causal, backward)
    return truth, _compute(arrays, causal, backward)


def _heads_errors(outputs: Sequence[jax.Array], truth: Sequence[jax.Array]) -> list[jax.Array]:
    return _errors([one_head(output) for output in outputs], truth)


def _errors(values: Sequence[jax.Array], truth: Sequence[jax.Array]) -> list[jax.Array]:
    """||value - truth|| / ||truth|| of each; NaN if anything is."""
    return [
        jnp.linalg.norm(value.astype(jnp.float32) - true) / jnp.linalg.norm(true)
        for value, true in zip(values, truth, strict=True)
    ]


def _compile(function: Callable[..., Any], *arguments: Any) -> Any:
    # Its speed does not matter; tuning its products would take longer than the products.
    lowered = jax.jit(function).lower(*arguments)
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0})


@dataclass(frozen=True)
class Programs:
    """What checks one shape, compiled: the reference's, and the errors beside it."""

    reference: Any
    errors: Any
    errors_of_heads: Any

    @staticmethod
    @functools.cache
    def of(
        shape: tuple[int, ...], shape_v: tuple[int, ...], dtype: str, causal: bool, backward: bool
    ) -> Programs:
        qk, v = (jax.ShapeDtypeStruct(some, dtype) for some in (shape, shape_v))
        outputs = [v, qk, qk, v] if backward else [v]
        heads = [jax.ShapeDtypeStruct((x.shape[1], x.shape[3]), dtype) for x in outputs]
        truth = [jax.ShapeDtypeStruct(head.shape, jnp.float32) for head in heads]
        reference = functools.partial(_reference, causal=causal, backward=backward)
        return Programs(
            # Two programs, so that nobody skips the plain results' rounding on the way.
            reference=_compile(reference, [qk, qk, v, v]),
            errors=_compile(_errors, heads, truth),
            errors_of_heads=_compile(_heads_errors, outputs, truth),
        )


class Reference:
    """The float32 truth of one input set, and the error allowed for each output."""

    def __init__(self, inputs: Sequence[jax.Array], *, causal: bool, backward: bool) -> None:
        q, _, v, _ = inputs
        self.programs = Programs.of(q.shape, v.shape, q.dtype.name, causal, backward)
        truth, plain = self.programs.reference(list(inputs))
        self.truth = list(truth)
        errors = self.programs.errors(list(plain), self.truth)
        self.bounds = {
            name: 2.0 * float(error) + FLOOR for name, error in zip(NAMES, errors, strict=False)
        }

    def errors(self, outputs: Sequence[jax.Array]) -> dict[str, float]:
        """The relative error of each of (out[, dq, dk, dv]), (B, S, H, D) arrays."""
        found = self.programs.errors_of_heads(list(outputs), self.truth)
        return {name: float(error) for name, error in zip(NAMES, found, strict=False)}

    def verdict(self, errors: Mapping[str, float]) -> str:
        """Empty if every error is within its bound, else what is wrong."""
        return "; ".join(
            f"{name}: error {error:.2e} > {self.bounds[name]:.2e}"
            for name, error in errors.items()
            if not error <= self.bounds[name]
        )
