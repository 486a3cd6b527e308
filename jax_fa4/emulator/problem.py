"""One kernel by itself on random inputs, beside its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4 import emulator, ffi
from jax_fa4.emulator import one_kernel
from jax_fa4.ffi.backward import Operands, backward_preprocess
from jax_fa4.ops import reference
from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.fp8 import Descales
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.variants import (
    BackwardPostprocessVariant,
    BackwardPreprocessVariant,
    BackwardVariant,
    DType,
    ForwardVariant,
    Variant,
    parse,
)
from jax_fa4.variants.select import helpers

_DTYPES = {DType.BF16: "bfloat16", DType.FP16: "float16", DType.E4M3: "float8_e4m3fn"}
HEAD_DIM_STEP = 8  # of the kernels' tensors
SEGMENTS = 3  # of random problems for bounded kernels
SOFTCAP = 1.5  # of those that cap scores, which are about 1


@dataclass(frozen=True)
class Shape:
    """Sizes of a call; the kernel of the backward takes those of the queries."""

    batch: int
    queries: int
    keys: int
    heads: int
    key_heads: int
    head_dim: int


Arrays = tuple[jax.Array, ...]


@dataclass(frozen=True)
class Problem:
    """A call: `run` makes it on the emulator, `exact` and `plain` by definition.

    Each returns the same arrays. The kernel in question is number `launch` of the call's.
    """

    words: str
    run: Callable[[], Arrays]
    exact: Callable[[], Arrays]
    plain: Callable[[], Arrays]
    dtype: str
    launch: int = 0

    def verdict(self, found: Arrays) -> tuple[float, float]:
        """The largest error of the array that is worst, and what is allowed.

        That is twice the error of the same precision, and one ulp.
        """
        errors = []
        for ours, exact, plain in zip(found, self.exact(), self.plain(), strict=True):
            ulp = float(np.spacing(np.asarray(jnp.abs(exact).max(), jnp.dtype(self.dtype))))
            errors.append((_difference(ours, exact), 2 * _difference(plain, exact) + ulp))
        return max(errors, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0] / pair[1])


def kernels() -> list[str]:
    """The kernels of this build that can be run by themselves."""
    return sorted(name for name in ffi.built_variants() if emulator.has_ptx(name))


def kernel(name: str) -> Variant:
    """A kernel that can be run by itself; ValueError otherwise."""
    variant = parse(name)
    if name not in ffi.built_variants() or not emulator.has_ptx(name):
        raise ValueError(f"this build of jax_fa4 lacks the kernel {name}")
    return variant


def problem(variant: Variant, shape: Shape, *, causal: bool, seed: int) -> Problem:
    """Random inputs for a kernel; ValueError if it does not take the shape."""
    generator = np.random.default_rng(seed)
    if isinstance(variant, ForwardVariant):
        _check_width(variant, shape)
        return _forward(variant, shape, causal, generator)
    if isinstance(variant, BackwardVariant):
        _check_width(variant, shape)
        return _backward(variant, shape, causal, generator)
    if isinstance(variant, BackwardPostprocessVariant):
        return _postprocess(variant, shape, causal, generator)
    if not isinstance(variant, BackwardPreprocessVariant):
        raise ValueError(f"{variant.name} does not run by itself on random inputs")
    if causal or shape.head_dim % HEAD_DIM_STEP:
        raise ValueError(
            f"{variant.name} knows no mask (leave --causal away), and head dims that are multiples "
            f"of {HEAD_DIM_STEP}"
        )
    return _preprocess(variant, shape, generator)


def _check_width(variant: ForwardVariant | BackwardVariant, shape: Shape) -> None:
    if shape.head_dim > variant.head_dim:
        raise ValueError(f"{variant.name} takes head dims up to {variant.head_dim}")


def _forward(
    variant: ForwardVariant, shape: Shape, causal: bool, generator: np.random.Generator
) -> Problem:
    query = (shape.batch, shape.queries, shape.heads, shape.head_dim)
    key = (shape.batch, shape.keys, shape.key_heads, shape.head_dim)
    dtype = _DTYPES[variant.dtype]
    q, k, v = (jnp.asarray(generator.standard_normal(x), dtype) for x in (query, key, key))
    descales = None
    if variant.dtype is DType.E4M3:
        sizes = generator.uniform(0.5, 2, (3, shape.batch, shape.key_heads))
        descales = Descales(*jnp.asarray(sizes, jnp.float32))
    scale = shape.head_dim**-0.5
    softcap = SOFTCAP * variant.softcap
    band, bounds = _visible(variant, shape, causal, generator)
    mask = None if bounds is None else bounds.sees()[:, None]

    def run() -> Arrays:
        if bounds is not None:
            return one_kernel.forward_bounded(
                variant.name, q, k, v, bounds, softmax_scale=scale, softcap=softcap
            )[:1]
        options: dict[str, Any] = {"softmax_scale": scale, "band": band}
        return one_kernel.forward(variant.name, q, k, v, *(descales or ()), **options)[:1]

    def definition(*inputs: jax.Array) -> Arrays:
        options: dict[str, Any] = {"softmax_scale": scale, "band": band, "mask": mask}
        return reference.attention(*inputs, descales=descales, softcap=softcap, **options)[:1]

    return Problem(
        f"query {query}, key and value {key}",
        run,
        lambda: definition(*(x.astype(jnp.float32) for x in (q, k, v))),
        lambda: definition(q, k, v),
        _DTYPES[variant.dtype.output],
    )


def _visible(
    variant: ForwardVariant | BackwardVariant,
    shape: Shape,
    causal: bool,
    generator: np.random.Generator,
) -> tuple[Band, KeyBounds | None]:
    """What rows see: a band, or of a bounded kernel, beside FULL, the band within segments.

    Segments are runs, of random lengths; a row may be of one that has no key.
    """
    band = Band.make(
        shape.queries, shape.keys, causal=causal, window=(None, None), alignment="bottom_right"
    )
    if not variant.bounded:
        return band, None
    lengths = (shape.queries, shape.keys)
    ids = (np.sort(generator.integers(0, SEGMENTS, (shape.batch, n))) for n in lengths)
    bounds = KeyBounds.of_band(band, shape.batch, *lengths)
    return FULL, bounds.within_segments(*(jnp.asarray(x, jnp.int32) for x in ids))


def _backward(
    variant: BackwardVariant, shape: Shape, causal: bool, generator: np.random.Generator
) -> Problem:
    query = (shape.batch, shape.queries, shape.heads, shape.head_dim)
    key = (shape.batch, shape.keys, shape.key_heads, shape.head_dim)
    dtype = _DTYPES[variant.dtype]
    q, k, v, dout = (
        jnp.asarray(generator.standard_normal(x), dtype) for x in (query, key, key, query)
    )
    dlse = jnp.asarray(generator.standard_normal((query[0], query[2], query[1])), jnp.float32)
    scale = shape.head_dim**-0.5
    band, bounds = _visible(variant, shape, causal, generator)
    mask = None if bounds is None else bounds.sees()[:, None]
    softcap = SOFTCAP * variant.softcap
    options: dict[str, Any] = {
        "softmax_scale": scale,
        "band": band,
        "mask": mask,
        "softcap": softcap,
    }
    out, lse = reference.attention(q, k, v, **options)
    operands = Operands(q, k, v, out, dout, lse, dlse)

    def run() -> Arrays:
        if bounds is None:
            return one_kernel.backward(variant.name, operands, softmax_scale=scale, band=band)[0]
        return one_kernel.backward_bounded(
            variant.name, operands, bounds, softmax_scale=scale, softcap=softcap
        )[0]

    def definition(dtype: str) -> Arrays:
        q, k, v, out, dout = (x.astype(dtype) for x in operands[:5])
        return reference.gradients(q, k, v, out, lse, dout, dlse, **options)

    return Problem(
        f"query {query}, key and value {key}",
        run,
        lambda: definition("float32"),
        lambda: definition(dtype),
        dtype,
        launch=1,
    )


def _postprocess(
    variant: BackwardPostprocessVariant,
    shape: Shape,
    causal: bool,
    generator: np.random.Generator,
) -> Problem:
    """It reads sums in the order that a main kernel leaves them, so that one runs before it."""
    for name in kernels():
        main = parse(name)
        if (
            isinstance(main, BackwardVariant)
            and variant.name in helpers(main)
            and shape.head_dim <= main.head_dim
        ):
            return replace(_backward(main, shape, causal, generator), launch=2)
    raise ValueError(f"{variant.name} follows no kernel of this build with that head dim")


def _preprocess(
    variant: BackwardPreprocessVariant, shape: Shape, generator: np.random.Generator
) -> Problem:
    size = (shape.batch, shape.queries, shape.heads, shape.head_dim)
    rows = (shape.batch, shape.heads, shape.queries)
    dtype = _DTYPES[variant.dtype]
    out, dout = (jnp.asarray(generator.standard_normal(size), dtype) for _ in range(2))
    lse, dlse = (jnp.asarray(generator.standard_normal(rows), jnp.float32) for _ in range(2))

    def run() -> Arrays:
        now = one_kernel.prepare(variant.name)
        with jax.default_device(jax.devices("cpu")[0]):
            scratch = backward_preprocess(
                out, dout, lse, dlse, width=64, variants=(variant.name,), emulator=now
            )
        return tuple(x[..., : shape.queries] for x in scratch[:2])

    def definition(dtype: type) -> Arrays:
        products: Any = np.asarray(out, dtype) * np.asarray(dout, dtype)
        delta = products.sum(-1, dtype=dtype).transpose(0, 2, 1) - np.asarray(dlse)
        return jnp.asarray(delta), jnp.asarray(np.asarray(lse, dtype) * dtype(np.log2(np.e)))

    return Problem(
        f"out and dout {size}",
        run,
        lambda: definition(np.float64),
        lambda: definition(np.float32),
        "float32",
    )


def _difference(found: jax.Array, exact: jax.Array) -> float:
    """The largest; NaN if there is one, which numpy's max promises and XLA's does not."""
    return float(np.max(np.abs(np.asarray(found, np.float32) - np.asarray(exact, np.float32))))
