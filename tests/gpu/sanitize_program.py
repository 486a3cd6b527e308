"""The program that tests/gpu/sanitize.py runs under compute-sanitizer: small shapes, every kernel.

It prints one line a problem and exits with 1 if a result is wrong, with 2 if nothing ran.
Inputs come from the host and results are compared there, so that little but our kernels
runs on the GPU.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.ffi.backward import Operands, backward
from jax_fa4.ops import selection
from jax_fa4.ops.band import Band
from jax_fa4.variants import parse
from jax_fa4.variants import problem as variants

Problem = tuple[int, int, int, int, int, int | tuple[int, int], bool, str]

# (B, Sq, Sk, Hq, Hkv, D or (D, Dv), causal, dtype): tails, several tiles, GQA.
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
    (1, 450, 300, 2, 1, 256, True, "bfloat16"),
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


def _run(call: Callable[..., Any], *arrays: jax.Array) -> list[np.ndarray]:
    """call's results, written over zeros.

    initcheck does not see what TMA stores write: so all that is read back has been written before.
    Scratch has not, and what a kernel reads of it before it was written is a finding.
    """
    types = jax.tree.leaves(jax.eval_shape(call, *arrays))
    spare = [jax.device_put(np.zeros(x.shape, x.dtype)) for x in types]
    program = jax.jit(
        lambda spare, *args: jax.tree.leaves(call(*args)), donate_argnums=0, keep_unused=True
    )
    return [np.asarray(x).astype(np.float64) for x in program(spare, *arrays)]


class Exact:
    """Attention and its gradients in float64; bottom-right causal, scaled by 1 / sqrt(D)."""

    def __init__(self, q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> None:
        self.q, k64, v64 = (np.asarray(x).astype(np.float64) for x in (q, k, v))
        (_, sq, hq, width), (_, sk, self.heads_kv, _) = q.shape, k.shape
        self.k, self.v = (np.repeat(x, hq // self.heads_kv, axis=2) for x in (k64, v64))
        self.scale = 1 / np.sqrt(width)
        scores = np.einsum("bihd,bjhd->bhij", self.q, self.k) * self.scale
        if causal:
            rows, columns = np.indices((sq, sk))
            scores = np.where(columns - rows <= sk - sq, scores, -np.inf)
        top = np.maximum(scores.max(-1, keepdims=True), -1e9)  # of rows without keys, too
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            self.lse = (top + np.log(total))[..., 0]
        self.weights = weights / np.where(total > 0, total, 1)
        self.out = np.einsum("bhij,bjhd->bihd", self.weights, self.v)

    def gradients(self, dout: jax.Array) -> tuple[np.ndarray, ...]:
        dout64 = np.asarray(dout).astype(np.float64)
        dweights = np.einsum("bihd,bjhd->bhij", dout64, self.v)
        delta = (self.weights * dweights).sum(-1, keepdims=True)
        dscores = self.weights * (dweights - delta) * self.scale
        dq = np.einsum("bhij,bjhd->bihd", dscores, self.k)
        dk = np.einsum("bhij,bihd->bjhd", dscores, self.q)
        dv = np.einsum("bhij,bihd->bjhd", self.weights, dout64)
        return dq, self._of_group(dk), self._of_group(dv)

    def _of_group(self, x: np.ndarray) -> np.ndarray:
        batch, length, _, width = x.shape
        return x.reshape(batch, length, self.heads_kv, -1, width).sum(3)


def _arrays(problem: Problem) -> list[jax.Array]:
    """q, k, v and a cotangent of the output."""
    b, sq, sk, hq, hkv, dims, _, dtype = problem
    d, dv = (dims, dims) if isinstance(dims, int) else dims
    shapes = ((b, sq, hq, d), (b, sk, hkv, d), (b, sk, hkv, dv), (b, sq, hq, dv))
    return [_normal(seed, shape, dtype) for seed, shape in enumerate(shapes)]


def _largest(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    # max() could drop NaN.
    return float(np.max([np.max(np.abs(a - b)) for a, b in zip(found, wanted, strict=True)]))


def _forward_error(problem: Problem) -> float:
    """The largest error of the output and of lse against float64."""
    q, k, v, _ = _arrays(problem)
    attend = functools.partial(
        jax_fa4.flash_attention, causal=problem[6], return_lse=True, implementation="fa4"
    )
    exact = Exact(q, k, v, problem[6])
    return _largest(_run(attend, q, k, v), (exact.out, exact.lse))


def _backward_error(problem: Problem, deterministic: bool = False) -> float:
    """The largest error of dq, dk and dv against float64, of kernels in all forms.

    The call itself: out and lse come from the host, as all that is read.
    """
    q, k, v, dout = _arrays(problem)
    exact = Exact(q, k, v, problem[6])
    out = jax.device_put(exact.out.astype(dout.dtype))
    lse = jax.device_put(exact.lse.astype(np.float32))
    asked = variants.Problem(
        dtype=problem[7],
        head_dim=q.shape[-1],
        head_dim_v=v.shape[-1],
        softmax_scale=float(exact.scale),
        deterministic=deterministic,
    )
    band = Band.make(
        q.shape[1], k.shape[1], causal=problem[6], window=(None, None), alignment="bottom_right"
    )
    dlse = jax.device_put(np.zeros(lse.shape, np.float32))
    operands = (q, k, v, out, dout, lse, dlse)
    wanted = exact.gradients(dout)
    errors = []
    for name in _on_this_device(selection.select(asked, "fa4").backward):

        def call(*operands: jax.Array, name: str = name) -> Any:
            how = {"softmax_scale": float(exact.scale), "band": band, "variants": (name,)}
            return backward(Operands(*operands), **how)[0]

        errors.append(_largest(_run(call, *operands), wanted))
        print(f"{name}: error {errors[-1]:.1e}", flush=True)
    if not errors:
        raise SystemExit(f"no backward kernel for {problem}")
    return float(np.max(errors))


def _on_this_device(names: Sequence[str]) -> list[str]:
    major = jax.devices()[0].compute_capability.partition(".")[0]
    return [n for n in names if str(parse(n).arch.compute_capability_major) == major]


def _deterministic_error(problem: Problem) -> float:
    return _backward_error(problem, deterministic=True)


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
            error = error_of(problem)
            verdict = "right" if error <= bound else "WRONG"
            wrong += verdict == "WRONG"
            ran += 1
            print(f"{error_of.__name__[1:-6]} {problem}: error {error:.1e}, {verdict}", flush=True)
    print(f"{ran} problems ran, {wrong} wrong", flush=True)
    return 1 if wrong else 0 if ran else 2


if __name__ == "__main__":
    sys.exit(main())
