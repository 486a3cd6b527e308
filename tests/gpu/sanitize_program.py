"""The program that tests/gpu/sanitize.py runs under compute-sanitizer: small shapes, every kernel.

It prints one line a problem and exits with 1 if a result is wrong, with 2 if nothing ran.
Inputs come from the host and results are compared there, so that little but our kernels
runs on the GPU.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.ffi.backward import backward_preprocess
from jax_fa4.variants import CATALOG, BackwardPreprocessVariant

# (B, Sq, Sk, Hq, Hkv, D, causal, dtype): tails, several tiles of queries and of keys, GQA.
FORWARD = (
    (1, 200, 300, 2, 1, 64, False, "bfloat16"),
    (1, 257, 257, 1, 1, 64, True, "float16"),
    (1, 200, 300, 2, 1, 128, False, "bfloat16"),
    (2, 129, 400, 1, 1, 128, True, "bfloat16"),
    (1, 150, 180, 1, 1, 256, True, "bfloat16"),
    (1, 1, 33, 1, 1, 72, False, "float16"),
)
PREPROCESS = ((1, 113, 2, 64, "bfloat16"), (2, 65, 1, 264, "float16"))


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


def _preprocess_error(b: int, s: int, h: int, d: int, dtype: str) -> float:
    out, dout = (_normal(seed, (b, s, h, d), dtype) for seed in (3, 4))
    dlse = _normal(5, (b, h, s), "float32")
    short = {"bfloat16": "bf16", "float16": "fp16"}[dtype]
    names = tuple(
        v.name
        for v in CATALOG
        if isinstance(v, BackwardPreprocessVariant) and v.dtype.value == short
    )
    delta = jax.jit(lambda *a: backward_preprocess(*a, variants=names))(out, dout, dlse)
    wide = [np.asarray(x).astype(np.float64) for x in (out, dout)]
    want = np.moveaxis((wide[0] * wide[1]).sum(-1), 2, 1) - np.asarray(dlse)
    return float(np.max(np.abs(np.asarray(delta) - want)))


def main() -> int:
    """Run everything; a coarse bound is enough here, the tests hold the fine one."""
    ffi.register()
    wrong = ran = 0
    for problems, error_of, bound in (
        (FORWARD, _forward_error, 0.05),
        (PREPROCESS, _preprocess_error, 1e-3),
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
