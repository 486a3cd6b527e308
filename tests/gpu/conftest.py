"""What the GPU tests share. They need a GPU with kernels and say so loudly where there is none.

JAX_FA4_REQUIRE_GPU=1 makes a missing GPU a failure: for machines that must have one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.ops.selection import supported_capabilities

Attend = Callable[..., Any]


def _missing() -> str | None:
    """Why the kernels cannot run here; None if they can."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError as error:
        return f"NO GPU TEST WAS RUN: jax sees no CUDA device ({str(error).splitlines()[0]})"
    capability = str(getattr(devices[0], "compute_capability", "unknown"))
    if capability.partition(".")[0] not in map(str, supported_capabilities()):
        return f"NO GPU TEST WAS RUN: {devices[0].device_kind} has compute capability {capability}"
    return None


@pytest.fixture(scope="session", autouse=True)
def _gpu_with_kernels() -> None:
    reason = _missing()
    if reason is None:
        return
    if os.environ.get("JAX_FA4_REQUIRE_GPU"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def attend() -> Attend:
    """flash_attention through the kernel, or an error: never the portable path."""
    import jax_fa4

    return functools.partial(jax_fa4.flash_attention, implementation="fa4", return_lse=True)


@pytest.fixture(scope="session")
def preprocess() -> Attend:
    """The backward preprocess kernel as one custom call: (out, dout, lse, dlse) -> Scratch."""
    from jax_fa4 import ffi
    from jax_fa4.ffi.backward import Scratch, backward_preprocess
    from jax_fa4.variants import CATALOG, BackwardPreprocessVariant

    ffi.register()

    def call(
        out: jax.Array, dout: jax.Array, lse: jax.Array, dlse: jax.Array, width: int = 64
    ) -> Scratch:
        dtype = {"bfloat16": "bf16", "float16": "fp16"}[out.dtype.name]
        names = tuple(
            variant.name
            for variant in CATALOG
            if isinstance(variant, BackwardPreprocessVariant) and variant.dtype.value == dtype
        )
        return backward_preprocess(out, dout, lse, dlse, width=width, variants=names)

    return call


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[jax.Array]]:
    """draw(seed, (shape, dtype), ...): standard normal arrays, made on the host."""

    def make(seed: int, *specs: tuple[Sequence[int], Any]) -> list[jax.Array]:
        generator = np.random.default_rng(seed)
        return [
            jnp.asarray(generator.standard_normal(shape, dtype=np.float32)).astype(dtype)
            for shape, dtype in specs
        ]

    return make


def _run_on_poison(call: Callable[..., Any], *arguments: jax.Array) -> list[Any]:
    """call's results, every one of them written into memory that held NaN.

    Arrays of the outputs' shapes, full of NaN, are donated: XLA writes the outputs where they
    lie, and `unsafe_buffer_pointer` shows it. The caller compares the results with a
    reference: NaN left over anywhere is an unwritten element.
    """
    program = jax.jit(
        lambda poison, *args: jax.tree.leaves(call(*args)), donate_argnums=0, keep_unused=True
    )
    poison = [
        jnp.full(x.shape, jnp.nan, x.dtype)
        for x in jax.tree.leaves(jax.eval_shape(call, *arguments))
    ]
    addresses = [x.unsafe_buffer_pointer() for x in jax.block_until_ready(poison)]
    results = jax.block_until_ready(program(poison, *arguments))
    assert [x.unsafe_buffer_pointer() for x in results] == addresses
    return results


@pytest.fixture(scope="session")
def run_on_poison() -> Callable[..., list[Any]]:
    return _run_on_poison


def _attention(
    q: Any, k: Any, v: Any, *, causal: bool, precision: Any, rounded: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """softmax(q k^T / sqrt(D)) v and its log-sum-exp; bottom-right causal, GQA.

    `precision` is that of every step; with `rounded` the weights and the output are rounded
    to that dtype, as every attention in 2-byte types does.
    """
    q, k, v = (np.asarray(x).astype(precision) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    scores = np.einsum("bihd,bjhd->bhij", q, k) / precision(np.sqrt(q.shape[-1]))
    if causal:
        rows, columns = np.indices(scores.shape[-2:])
        scores = np.where(columns - rows <= k.shape[1] - q.shape[1], scores, -np.inf)
    top = np.max(scores, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, precision(0))
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    if rounded is not None:
        weights = weights.astype(rounded).astype(precision)
    out = np.einsum("bhij,bjhd->bihd", weights, v)
    out = out / np.moveaxis(np.where(total > 0, total, precision(1)), 1, 2)
    return (out if rounded is None else out.astype(rounded)), lse


def _close(out: Any, lse: Any, arrays: Sequence[Any], *, causal: bool) -> None:
    """Within twice the error of the plain float32 computation, plus half an ulp of the largest."""
    dtype = np.asarray(arrays[0]).dtype
    want_out, want_lse = _attention(*arrays, causal=causal, precision=np.float64)
    plain_out, plain_lse = _attention(*arrays, causal=causal, precision=np.float32, rounded=dtype)
    _bounded(out, plain_out, want_out, float(jnp.finfo(dtype).eps))
    attended = np.isfinite(want_lse)
    lse = np.asarray(lse)
    np.testing.assert_array_equal(np.isneginf(lse), ~attended)
    # The kernel sums in another order and in base 2: a few float32 ulps.
    floor = 16 * float(np.finfo(np.float32).eps)
    _bounded(lse[attended], plain_lse[attended], want_lse[attended], floor)


def _bounded(value: Any, plain: np.ndarray, want: np.ndarray, eps: float) -> None:
    size = np.max(np.abs(want), initial=0.0)
    error = np.max(np.abs(plain.astype(np.float64) - want), initial=0.0)
    bound = 2 * error + eps / 2 * size
    np.testing.assert_allclose(np.asarray(value).astype(np.float64), want, rtol=0, atol=bound)


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """`close(out, lse, (q, k, v), causal=)` asserts that a result is right."""
    return SimpleNamespace(close=_close)
