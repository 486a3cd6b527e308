"""decode_attention over the devices of automatic and explicit meshes: batch and heads spread."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.testing import decode
from jax_fa4.testing.decode import DecodeCase

CASE = DecodeCase(
    lengths=(90, 3, 60, 0), capacity=96, queries=2, heads=4, heads_kv=2, window=(50, 0), sinks=True
)
PAGED = DecodeCase(
    lengths=(90, 3, 60, 0), capacity=96, page_size=16, heads=8, heads_kv=2, softcap=3.0
)


BUILT = ffi.built_variants() if ffi.extension_problem() is None else frozenset()
NEEDS_KERNELS = pytest.mark.skipif(
    "decode_sm90_bf16_d64" not in BUILT, reason="NOT TESTED HERE, needs the decoding kernels"
)
PATHS = ["xla", pytest.param("emulator", marks=NEEDS_KERNELS)]


def call(case, implementation):
    def run(x):
        return jax_fa4.decode_attention(
            *x[:3],
            key_value_seq_lengths=x.lengths,
            page_table=x.page_table,
            learnable_sink=x.sinks,
            implementation=implementation,
            **case.options,
        )

    return run


def specs(case):
    """Sequences along x, heads along y; all devices of x hold all pages."""
    cache = P("x", None, "y") if not case.page_size else P(None, None, "y")
    table = P("x") if case.page_size else None
    return (P("x", None, "y"), cache, cache, P("x"), table, P("y") if case.sinks else None)


def placed(case, x, kind):
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
    arrays = (
        None if a is None else jax.device_put(a, NamedSharding(mesh, s))
        for a, s in zip(x, specs(case), strict=True)
    )
    return mesh, type(x)(*arrays)


@pytest.mark.parametrize("implementation", PATHS)
@pytest.mark.parametrize("case", [CASE, PAGED], ids=["contiguous", "paged"])
def test_automatic(case, implementation):
    x = decode.make(case, jnp.bfloat16)
    _, spread = placed(case, x, AxisType.Auto)
    compiled = jax.jit(call(case, implementation)).lower(spread).compile()
    traffic = re.findall(
        r"= (\S+) (all-gather|all-reduce|all-to-all|collective-permute)", compiled.as_text()
    )
    # The portable path asks for the first and the last block that any sequence sees.
    assert traffic == ([("s32[]", "all-reduce")] * 2 if implementation == "xla" else [])
    out, lse = compiled(spread)
    assert out.sharding.spec[0] == "x"
    assert out.sharding.spec[2] == "y"
    for a, b in zip((out, lse), call(case, implementation)(x), strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("implementation", PATHS)
@pytest.mark.parametrize("case", [CASE, PAGED], ids=["contiguous", "paged"])
def test_explicit(case, implementation):
    x = decode.make(case, jnp.bfloat16)
    mesh, spread = placed(case, x, AxisType.Explicit)
    with jax.set_mesh(mesh):
        out, lse = jax.jit(call(case, implementation))(spread)
    assert jax.typeof(out).sharding.spec == P("x", None, "y", None)
    for a, b in zip((out, lse), call(case, implementation)(x), strict=True):
        np.testing.assert_allclose(
            np.asarray(a).astype(np.float32), np.asarray(b).astype(np.float32), rtol=1e-6
        )


@pytest.mark.parametrize("implementation", PATHS)
@pytest.mark.parametrize("shared", [False, True], ids=["own-caches", "one-cache"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_mapped(kind, shared, implementation):
    """jax.vmap on a mesh, of all arrays or of queries and lengths alone."""
    case = dataclasses.replace(CASE, sinks=False)
    x = decode.make(case, jnp.bfloat16)
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
    axes = type(x)(*(None if a is None or (shared and i in (1, 2)) else 0 for i, a in enumerate(x)))

    def put(array, axis):
        if array is None:
            return None
        moved = array if axis is None else jnp.stack([array, jnp.flip(array, 0)])
        spec = P("y") if axis is None else P("x", "y")
        return jax.device_put(moved, NamedSharding(mesh, spec))

    spread = type(x)(*map(put, x, axes))
    out, lse = jax.jit(jax.vmap(call(case, implementation), (axes,)))(spread)
    for i in range(2):
        one = type(x)(
            *(
                a if a is None or n is None or i == 0 else jnp.flip(a, 0)
                for a, n in zip(x, axes, strict=True)
            )
        )
        for a, b in zip((out, lse), call(case, implementation)(one), strict=True):
            a, b = (np.asarray(n).astype(np.float32) for n in (a, b))
            np.testing.assert_allclose(a[i], b, rtol=2.0**-7, atol=2.0**-7)
