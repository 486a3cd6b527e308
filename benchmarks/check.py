"""Is a contestant right? Its timed outputs against a float32 reference, on one head.

A wrong kernel can be fast, so nothing is reported without this: the last batch and head
of the first and last outputs that the timed program returned, forward and gradients.
The error ||x - ref|| / ||ref|| may be at most twice that of the plain computation in the
contestants' own precision, plus half a bf16 ulp (2^-9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """||value - reference|| / ||reference|| in float64; NaN if anything is."""
    value, reference = value.astype(np.float64), reference.astype(np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@functools.cache
def _compiled(shape: tuple[int, int], dtype: str, causal: bool, backward: bool) -> Any:
    arrays = [jax.ShapeDtypeStruct(shape, dtype)] * 4
    # Its speed does not matter; tuning its products would take longer than the products.
    return (
        jax.jit(_compute, static_argnums=(1, 2))
        .lower(arrays, causal, backward)
        .compile(compiler_options={"xla_gpu_autotune_level": 0})
    )


class Reference:
    """The float32 truth of one input set, and the error allowed for each output."""

    def __init__(self, inputs: Sequence[jax.Array], *, causal: bool, backward: bool) -> None:
        def run(arrays: Sequence[jax.Array]) -> dict[str, np.ndarray]:
            function = _compiled(arrays[0].shape, arrays[0].dtype.name, causal, backward)
            return {
                name: np.asarray(result.astype(jnp.float32))
                for name, result in zip(NAMES, function(list(arrays)), strict=False)
            }

        arrays = [one_head(array) for array in inputs]
        self.truth = run([array.astype(jnp.float32) for array in arrays])
        plain = run(arrays)
        self.bounds = {
            name: 2.0 * relative_error(plain[name], self.truth[name]) + FLOOR for name in plain
        }

    def errors(self, outputs: Sequence[jax.Array]) -> dict[str, float]:
        """The relative error of each of (out[, dq, dk, dv]), (B, S, H, D) arrays."""
        return {
            name: relative_error(np.asarray(one_head(output).astype(jnp.float32)), self.truth[name])
            for name, output in zip(NAMES, outputs, strict=False)
        }

    def verdict(self, errors: Mapping[str, float]) -> str:
        """Empty if every error is within its bound, else what is wrong."""
        return "; ".join(
            f"{name}: error {error:.2e} > {self.bounds[name]:.2e}"
            for name, error in errors.items()
            if not error <= self.bounds[name]
        )
