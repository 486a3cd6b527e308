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
from jax_fa4.emulator import settings
from jax_fa4.ffi.backward import Gradients, Operands, Scratch, backward_preprocess
from jax_fa4.ffi.backward import backward as backward_call
from jax_fa4.ffi.forward import forward as forward_call
from jax_fa4.ops import reference
from jax_fa4.ops.band import Band
from jax_fa4.ops.fp8 import Descales
from jax_fa4.ops.kernel_calls import pad_head_dim, pad_operands
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
    band = Band.make(
        shape.queries, shape.keys, causal=causal, window=(None, None), alignment="bottom_right"
    )

    def run() -> Arrays:
        scale = shape.head_dim**-0.5
        options: dict[str, Any] = {"softmax_scale": scale, "band": band}
        return forward(variant.name, q, k, v, *(descales or ()), **options)[:1]

    def definition(*inputs: jax.Array) -> Arrays:
        options: dict[str, Any] = {"softmax_scale": shape.head_dim**-0.5, "band": band}
        return reference.attention(*inputs, descales=descales, **options)[:1]

    return Problem(
        f"query {query}, key and value {key}",
        run,
        lambda: definition(*(x.astype(jnp.float32) for x in (q, k, v))),
        lambda: definition(q, k, v),
        _DTYPES[variant.dtype.output],
    )


def forward(
    name: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *descales: jax.Array,
    softmax_scale: float,
    band: Band,
) -> tuple[jax.Array, jax.Array]:
    """out and lse (B, H, Sq) of the forward kernel `name`, even if calls would get another one."""
    now = _prepare(name)
    with jax.default_device(jax.devices("cpu")[0]):
        out, lse = forward_call(
            *map(pad_head_dim, (q, k, v)),
            descales=descales,
            softmax_scale=softmax_scale,
            band=band,
            variants=(name,),
            emulator=now,
        )
    return out[..., : v.shape[-1]], lse


def backward(
    name: str, operands: Operands, *, softmax_scale: float, band: Band
) -> tuple[Gradients, Scratch]:
    """The gradients by the backward kernel `name`, and the scratch that its kernels left."""
    now = _prepare(name)
    with jax.default_device(jax.devices("cpu")[0]):
        gradients, scratch = backward_call(
            pad_operands(operands),
            softmax_scale=softmax_scale,
            band=band,
            variants=(name,),
            emulator=now,
        )
    cut = (dx[..., : x.shape[-1]] for dx, x in zip(gradients, operands[:3], strict=True))
    return Gradients(*cut), scratch


def _prepare(name: str) -> settings.Settings:
    """Loads what a kernel's run needs; the settings of the run."""
    ffi.register_emulator()
    variant = parse(name)
    helping = helpers(variant) if isinstance(variant, BackwardVariant) else ()
    for needed in (name, *helping):
        emulator.load(needed)
    now = settings.current()
    if now.special == "h100":
        emulator.load_special_tables()
    return now


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
    band = Band.make(
        shape.queries, shape.keys, causal=causal, window=(None, None), alignment="bottom_right"
    )
    out, lse = reference.attention(q, k, v, softmax_scale=scale, band=band)
    operands = Operands(q, k, v, out, dout, lse, dlse)

    def run() -> Arrays:
        return backward(variant.name, operands, softmax_scale=scale, band=band)[0]

    def definition(dtype: str) -> Arrays:
        q, k, v, out, dout = (x.astype(dtype) for x in operands[:5])
        return reference.gradients(q, k, v, out, lse, dout, dlse, softmax_scale=scale, band=band)

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
        now = _prepare(variant.name)
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
