"""The program that tests/gpu/sanitize.py runs under compute-sanitizer: small shapes, every kernel.

It prints one line a problem and exits with 1 if a result is wrong, with 2 if nothing ran.
Inputs come from the host and results are compared there, so that little but our kernels
runs on the GPU.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from jax_fa4 import ffi

# (B, Sq, Sk, Hq, Hkv, D, causal, dtype): tails, several tiles of queries and of keys, GQA.
FORWARD = (
    (1, 200, 300, 2, 1, 64, False, "bfloat16"),
    (1, 257, 257, 1, 1, 64, True, "float16"),
    (1, 200, 300, 2, 1, 128, False, "bfloat16"),
    (2, 129, 400, 1, 1, 128, True, "bfloat16"),
    (1, 150, 180, 1, 1, 256, True, "bfloat16"),
    (1, 1, 33, 1, 1, 72, False, "float16"),
)
# The same for the gradients: tails on both sides, GQA, a head dim below the tile's, one of V.
BACKWARD = (
    (1, 200, 300, 4, 2, 64, False, "bfloat16"),
    (1, 257, 257, 1, 1, 64, True, "float16"),
    (1, 130, 200, 2, 1, 128, True, "bfloat16"),
    (1, 65, 33, 1, 1, 72, False, "float16"),
    (1, 70, 130, 2, 1, (192, 128), False, "bfloat16"),
    (1, 130, 140, 2, 1, 256, True, "bfloat16"),
)
# By the deterministic kernels.
DETERMINISTIC = (
    (1, 200, 300, 4, 2, 64, False, "bfloat16"),
    (1, 200, 290, 2, 1, 96, True, "bfloat16"),
    (1, 130, 200, 2, 1, 128, True, "float16"),
)


def _normal(seed: int, shape: tuple[int, ...], dtype: str) -> jax.Array:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return jax.device_put(values.astype(jnp.dtype(dtype)))


def _forward_error(
    b: int, sq: int, sk: int, hq: int, hkv: int, d: int, causal: bool, dtype: str
) -> float:
    """The largest error of the output against float64."""
    q = _normal(0, (b, sq, hq, d), dtype)
    k, v = (_normal(seed, (b, sk, hkv, d), dtype) for seed in (1, 2))
    attend = jax.jit(
        lambda q, k, v: jax_fa4.flash_attention(q, k, v, causal=causal, implementation="fa4")
    )
    out = np.asarray(attend(q, k, v)).astype(np.float64)
    q64, k64, v64 = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    k64, v64 = (np.repeat(x, hq // hkv, axis=2) for x in (k64, v64))
    scores = np.einsum("bihd,bjhd->bhij", q64, k64) / np.sqrt(d)
    if causal:
        rows, columns = np.indices((sq, sk))
        scores = np.where(columns - rows <= sk - sq, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = np.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdims=True), v64)
    return float(np.max(np.abs(out - want)))


def _backward_error(
    b: int,
    sq: int,
    sk: int,
    hq: int,
    hkv: int,
    dims: int | tuple[int, int],
    causal: bool,
    dtype: str,
    **options: Any,
) -> float:
    """The largest error of dq, dk and dv against float64."""
    d, dv = (dims, dims) if isinstance(dims, int) else dims
    q, dout = (_normal(seed, (b, sq, hq, width), dtype) for seed, width in ((0, d), (3, dv)))
    k, v = (_normal(seed, (b, sk, hkv, width), dtype) for seed, width in ((1, d), (2, dv)))
    options |= {"causal": causal, "implementation": "fa4"}
    if "gradient: kernel" not in jax_fa4.explain(q, k, v, **options):
        raise SystemExit(f"no backward kernel for head dim {dims}")

    def pull(q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array) -> tuple[jax.Array, ...]:
        _, vjp = jax.vjp(lambda *a: jax_fa4.flash_attention(*a, **options), q, k, v)
        gradients: tuple[jax.Array, ...] = vjp(dout)
        return gradients

    found = jax.jit(pull)(q, k, v, dout)
    q64, k64, v64, dout64 = (np.asarray(x).astype(np.float64) for x in (q, k, v, dout))
    k64, v64 = (np.repeat(x, hq // hkv, axis=2) for x in (k64, v64))
    scores = np.einsum("bihd,bjhd->bhij", q64, k64) / np.sqrt(d)
    if causal:
        rows, columns = np.indices((sq, sk))
        scores = np.where(columns - rows <= sk - sq, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = np.einsum("bihd,bjhd->bhij", dout64, v64)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) / np.sqrt(d)
    wanted = (
        np.einsum("bhij,bjhd->bihd", dscores, k64),
        np.einsum("bhij,bihd->bjhd", dscores, q64).reshape(b, sk, hkv, -1, d).sum(3),
        np.einsum("bhij,bihd->bjhd", weights, dout64).reshape(b, sk, hkv, -1, dv).sum(3),
    )
    return max(
        float(np.max(np.abs(np.asarray(ours).astype(np.float64) - want)))
        for ours, want in zip(found, wanted, strict=True)
    )


def _deterministic_error(*problem: Any) -> float:
    return _backward_error(*problem, deterministic=True)


def main() -> int:
    """Run everything; a coarse bound is enough here, the tests hold the fine one."""
    ffi.register()
    wrong = ran = 0
    for problems, error_of, bound in (
        (FORWARD, _forward_error, 0.05),
        (BACKWARD, _backward_error, 0.1),
        (DETERMINISTIC, _deterministic_error, 0.1),
    ):
        for problem in problems:
            error = error_of(*problem)
            verdict = "right" if error <= bound else "WRONG"
            wrong += verdict == "WRONG"
            ran += 1
            print(f"{error_of.__name__[1:-6]} {problem}: error {error:.1e}, {verdict}", flush=True)
    print(f"{ran} problems ran, {wrong} wrong", flush=True)
    return 1 if wrong else 0 if ran else 2


if __name__ == "__main__":
    sys.exit(main())
