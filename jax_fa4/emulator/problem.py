"""One kernel by itself on random inputs, beside its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4 import emulator, ffi
from jax_fa4.emulator import settings
from jax_fa4.ffi.backward import backward_preprocess
from jax_fa4.ffi.forward import forward as forward_call
from jax_fa4.ops import reference
from jax_fa4.ops.band import Band
from jax_fa4.ops.core import pad_head_dim
from jax_fa4.ops.fp8 import Descales
from jax_fa4.variants import BackwardPreprocessVariant, DType, ForwardVariant, Variant, parse

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


@dataclass(frozen=True)
class Problem:
    """A call: `run` makes it on the emulator, `exact` and `plain` by definition."""

    words: str
    run: Callable[[], jax.Array]
    exact: Callable[[], jax.Array]
    plain: Callable[[], jax.Array]
    dtype: str

    def verdict(self, found: jax.Array) -> tuple[float, float]:
        """The largest error, and what is allowed: twice that of the same precision, and one ulp."""
        exact = self.exact()
        ulp = float(np.spacing(np.asarray(jnp.abs(exact).max(), jnp.dtype(self.dtype))))
        return _difference(found, exact), 2 * _difference(self.plain(), exact) + ulp


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
        if shape.head_dim > variant.head_dim:
            raise ValueError(f"{variant.name} takes head dims up to {variant.head_dim}")
        return _forward(variant, shape, causal, generator)
    assert isinstance(variant, BackwardPreprocessVariant)
    if causal or shape.head_dim % HEAD_DIM_STEP:
        raise ValueError(
            f"{variant.name} knows no mask (leave --causal away), and head dims that are multiples "
            f"of {HEAD_DIM_STEP}"
        )
    return _preprocess(variant, shape, generator)


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

    def run() -> jax.Array:
        scale = shape.head_dim**-0.5
        options: dict[str, Any] = {"softmax_scale": scale, "band": band}
        return forward(variant.name, q, k, v, *(descales or ()), **options)[0]

    def definition(*inputs: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"softmax_scale": shape.head_dim**-0.5, "band": band}
        return reference.attention(*inputs, descales=descales, **options)[0]

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


def _prepare(name: str) -> settings.Settings:
    """Loads what a kernel's run needs; the settings of the run."""
    ffi.register_emulator()
    emulator.load(name)
    now = settings.current()
    if now.special == "h100":
        emulator.load_special_tables()
    return now


def _preprocess(
    variant: BackwardPreprocessVariant, shape: Shape, generator: np.random.Generator
) -> Problem:
    size = (shape.batch, shape.queries, shape.heads, shape.head_dim)
    rows = (shape.batch, shape.heads, shape.queries)
    dtype = _DTYPES[variant.dtype]
    out, dout = (jnp.asarray(generator.standard_normal(size), dtype) for _ in range(2))
    dlse = jnp.asarray(generator.standard_normal(rows), jnp.float32)

    def run() -> jax.Array:
        now = _prepare(variant.name)
        with jax.default_device(jax.devices("cpu")[0]):
            return backward_preprocess(out, dout, dlse, variants=(variant.name,), emulator=now)

    def definition(dtype: type) -> jax.Array:
        products: Any = np.asarray(out, dtype) * np.asarray(dout, dtype)
        return jnp.asarray(products.sum(-1, dtype=dtype).transpose(0, 2, 1) - np.asarray(dlse))

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
