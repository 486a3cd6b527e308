"""Bounded kernels, emulated, against the definition: whatever their arrays say is visible."""

import jax.numpy as jnp
import numpy as np
import pytest
from calls import SCHEDULES

import jax_fa4
from jax_fa4.emulator import one_kernel
from jax_fa4.ffi.backward import Operands
from jax_fa4.ops.band import FULL
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.testing import inputs, tolerances
from jax_fa4.testing.bounded import problem
from jax_fa4.variants import CATALOG, BackwardVariant, DType, ForwardVariant

SOFTCAP = 1.5  # scores are about 1
DTYPES = {DType.BF16: jnp.bfloat16, DType.FP16: jnp.float16}


def kernels(kind):
    """Bounded kernels of a kind; half of them in each precision, by turns."""
    names = sorted(
        (v.arch.value, v.head_dim, v.softcap, v.dtype.value, v.name)
        for v in CATALOG
        if isinstance(v, kind) and v.bounded
    )
    variants = {v.name: v for v in CATALOG}
    return [variants[name] for i, (*_, name) in enumerate(names) if i % 2 == (i // 2) % 2]


def seeds(variant):
    """More for the narrow kernels, whose problems are fast."""
    return range(4 if variant.head_dim == 64 else 2)


CASES = {
    kind: [pytest.param(v, seed, id=f"{v.name}-{seed}") for v in kernels(kind) for seed in seeds(v)]
    for kind in (ForwardVariant, BackwardVariant)
}


def scheduled(variant, seed):
    level, completion, order = SCHEDULES[seed % len(SCHEDULES)]
    return jax_fa4.emulator.options(
        arch=variant.arch.value, level=level, completion=completion, seed=order
    )


@pytest.mark.parametrize(("variant", "seed"), CASES[ForwardVariant])
def test_forward_is_the_definition(variant, seed):
    case = problem(seed, (variant.head_dim, variant.head_dim_v), DTYPES[variant.dtype])
    softcap = SOFTCAP * variant.softcap
    with scheduled(variant, seed):
        out, lse = one_kernel.forward_bounded(
            variant.name,
            *case.inputs[:3],
            case.bounds,
            softmax_scale=case.case.scale,
            softcap=softcap,
        )
    found = {"out": np.asarray(out), "lse": np.asarray(lse)}
    tolerances.check(found, *case.definition(softcap))


@pytest.mark.parametrize(("variant", "seed"), CASES[BackwardVariant])
def test_backward_is_the_definition(variant, seed):
    case = problem(seed, (variant.head_dim, variant.head_dim_v), DTYPES[variant.dtype])
    softcap = SOFTCAP * variant.softcap
    wanted, by_formulas = case.definition(softcap)
    q, k, v, dout, dlse = case.inputs
    out, lse = (jnp.asarray(by_formulas[name]) for name in ("out", "lse"))
    with scheduled(variant, seed):
        gradients, _ = one_kernel.backward_bounded(
            variant.name,
            Operands(q, k, v, out, dout, lse, dlse),
            case.bounds,
            softmax_scale=case.case.scale,
            softcap=softcap,
        )
    found = dict(zip(("dq", "dk", "dv"), map(np.asarray, gradients), strict=True))
    tolerances.check(found, wanted, by_formulas)


@pytest.mark.parametrize("arch", sorted({v.arch.value for v in kernels(ForwardVariant)}))
def test_blocks_of_other_documents_are_never_read(arch):
    """NaN in keys and values of a document that nobody is of."""
    case = inputs.Case(name="poisoned", query_length=100, key_length=512, heads=1, heads_kv=1)
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    ids = jnp.broadcast_to(jnp.arange(512, dtype=jnp.int32) // 256, (2, 512))
    queries = jnp.zeros((2, 100), jnp.int32)
    bounds = KeyBounds.of_band(FULL, 2, 100, 512).within_segments(queries, ids)
    hidden = (ids == 1)[..., None, None]
    name = f"fwd_{arch}_bf16_d64_bounded"
    with jax_fa4.emulator.options(arch=arch):
        clean, poisoned = (
            one_kernel.forward_bounded(name, q, x, y, bounds, softmax_scale=0.125)
            for x, y in ((k, v), (jnp.where(hidden, jnp.nan, k), jnp.where(hidden, jnp.nan, v)))
        )
    for a, b in zip(clean, poisoned, strict=True):
        assert np.array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
