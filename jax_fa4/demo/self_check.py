"""Runs attention forward and backward on this machine and measures it against its definition.

The rule: an error is at most twice the error of the plain computation in the same
precision, plus one unit in the last place of the largest exact value. Both errors are
the largest deviations from the definition in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.ops import reference, selection
from jax_fa4.ops.band import Band, Window
from jax_fa4.ops.selection import Implementation

# Called as jax_fa4.flash_attention(q, k, v, causal=, window_size=, return_lse=True).
FlashAttention = Callable[..., tuple[jax.Array, jax.Array]]
Array64 = npt.NDArray[np.float64]

HEADER = f"{'problem':48s}"
RESULTS = ("out", "lse", "dq", "dk", "dv")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One attention call; causal and windows are aligned at the ends (bottom-right)."""

    dtype: str
    lengths: tuple[int, int]
    heads: tuple[int, int]
    head_dim: int
    causal: bool = False
    window: Window = (None, None)
    batch: int = 2

    def __str__(self) -> str:
        mask = "causal" if self.causal else "full"
        if self.window != (None, None):
            mask = "window " + ",".join("-" if side is None else str(side) for side in self.window)
        lengths, heads = "x".join(map(str, self.lengths)), "/".join(map(str, self.heads))
        return f"{self.dtype:8s} {lengths:>7s}  heads {heads}  dim {self.head_dim:<3d}  {mask:12s}"


PROBLEMS = (
    Problem(dtype="bfloat16", lengths=(256, 256), heads=(2, 2), head_dim=64),
    Problem(dtype="bfloat16", lengths=(256, 256), heads=(2, 2), head_dim=128, causal=True),
    Problem(dtype="float16", lengths=(192, 192), heads=(4, 2), head_dim=64, causal=True),
    Problem(dtype="bfloat16", lengths=(113, 239), heads=(4, 1), head_dim=80, causal=True),
    Problem(dtype="bfloat16", lengths=(150, 70), heads=(2, 2), head_dim=64, causal=True),
    Problem(dtype="float16", lengths=(200, 200), heads=(2, 2), head_dim=128, window=(48, 16)),
    Problem(dtype="bfloat16", lengths=(129, 129), heads=(2, 1), head_dim=256, window=(64, 0)),
    Problem(dtype="float32", lengths=(127, 127), heads=(4, 2), head_dim=32, causal=True),
)

# Where no kernel runs, the kernels are checked on the emulator: small ones, for it is slow.
EMULATED = (
    Problem(dtype="bfloat16", lengths=(70, 140), heads=(2, 1), head_dim=64, causal=True, batch=1),
    Problem(dtype="float16", lengths=(90, 90), heads=(2, 2), head_dim=128, window=(40, 8), batch=1),
)


@dataclass(frozen=True)
class Measurement:
    """How one result of one problem did."""

    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return self.error <= self.allowed

    @property
    def share(self) -> float:
        """Error as a share of what is allowed."""
        return self.error / self.allowed if self.allowed > 0 else math.inf * (self.error > 0)


@dataclass(frozen=True)
class Report:
    """One problem, the path it took, and a measurement for each name in RESULTS."""

    problem: Problem
    path: str
    measurements: dict[str, Measurement]

    @property
    def failures(self) -> list[str]:
        """One sentence for each result that is too far off."""
        return [
            f"{name} of [{self.problem}] is off by {found.error:.3g}, allowed {found.allowed:.3g}"
            for name, found in self.measurements.items()
            if not found.passed
        ]


def run(attention: FlashAttention, seed: int = 0) -> Iterator[Report]:
    """Check every problem, one report at a time; those for the emulator where it is of use."""
    for index, problem in enumerate(PROBLEMS):
        yield check(problem, attention, seed + index)
    if selection.cuda_devices() or ffi.extension_problem() is not None:
        return
    for index, problem in enumerate(EMULATED, start=len(PROBLEMS)):
        yield check(problem, attention, seed + index, implementation="emulator")


def check(
    problem: Problem,
    attention: FlashAttention,
    seed: int,
    implementation: Implementation = None,
) -> Report:
    """Check one problem on random inputs."""
    inputs, cotangents = _draw(problem, np.random.default_rng(seed))
    options = {"causal": problem.causal, "window_size": problem.window}
    if implementation is not None:
        options["implementation"] = implementation
    band = Band.make(
        *problem.lengths, causal=problem.causal, window=problem.window, alignment="bottom_right"
    )
    scale = problem.head_dim**-0.5

    def candidate(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return attention(q, k, v, **options, return_lse=True)

    def definition(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return reference.attention(q, k, v, softmax_scale=scale, band=band)

    dtype = jnp.dtype(problem.dtype)
    found = _forward_and_backward(candidate, inputs, cotangents, dtype)
    plain = _forward_and_backward(definition, inputs, cotangents, dtype)
    with jax.enable_x64(True):
        exact = _forward_and_backward(definition, inputs, cotangents, jnp.dtype("float64"))
    measurements = {
        name: _measure(ours, theirs, true, "float32" if name == "lse" else problem.dtype)
        for name, ours, theirs, true in zip(RESULTS, found, plain, exact, strict=True)
    }
    shaped = [jax.ShapeDtypeStruct(x.shape, dtype) for x in inputs]
    if implementation is not None:
        return Report(problem, implementation, measurements)
    refusal = jax_fa4.is_supported(*shaped)
    return Report(problem, "portable" if refusal else "kernel", measurements)


def _draw(problem: Problem, generator: np.random.Generator) -> tuple[list[Array64], list[Array64]]:
    """Query, key and value, then cotangents of out and lse: values of the problem's dtype."""
    (queries, keys), (query_heads, key_heads) = problem.lengths, problem.heads
    query_shape = (problem.batch, queries, query_heads, problem.head_dim)
    key_shape = (problem.batch, keys, key_heads, problem.head_dim)
    shapes = (query_shape, key_shape, key_shape, query_shape, (problem.batch, query_heads, queries))
    dtype = jnp.dtype(problem.dtype)
    drawn = [generator.standard_normal(s).astype(dtype).astype(np.float64) for s in shapes]
    return drawn[:3], drawn[3:]


def _forward_and_backward(
    attention: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    inputs: list[Array64],
    cotangents: list[Array64],
    dtype: np.dtype,
) -> list[Array64]:
    """out, lse, dq, dk, dv with inputs in `dtype`, under jit."""

    @jax.jit
    def both(
        q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, dlse: jax.Array
    ) -> tuple[jax.Array, ...]:
        (out, lse), pull_back = jax.vjp(attention, q, k, v)
        return out, lse, *pull_back((dout.astype(out.dtype), dlse.astype(lse.dtype)))

    arguments = [jnp.asarray(x, dtype) for x in (*inputs, *cotangents)]
    return [np.asarray(x.astype(jnp.promote_types(x.dtype, "float32"))) for x in both(*arguments)]


def _measure(found: Array64, plain: Array64, exact: Array64, dtype: str) -> Measurement:
    """Both errors; infinities (the lse of a row without keys) must stand in the same places."""
    finite = np.isfinite(exact)
    if not np.array_equal(found[~finite], exact[~finite]):
        return Measurement(error=math.inf, allowed=0.0)
    exact = exact[finite]
    largest = np.max(np.abs(exact), initial=0.0)
    ulp = float(np.spacing(np.asarray(largest, jnp.dtype(dtype))))
    plain_error = float(np.max(np.abs(plain[finite] - exact), initial=0.0))
    error = float(np.max(np.abs(found[finite] - exact), initial=0.0))
    return Measurement(error, allowed=2 * plain_error + ulp)
