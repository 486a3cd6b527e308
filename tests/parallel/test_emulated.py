"""The kernels themselves around a ring, on the emulator: small problems, both architectures."""

import jax.numpy as jnp
import pytest

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.testing import expected, inputs, meshes, tolerances

pytestmark = pytest.mark.skipif(
    ffi.extension_problem() is not None, reason="NOT TESTED HERE: the extension is not built"
)

CASE = inputs.Case(
    name="ring-emulated",
    query_length=128,
    key_length=128,
    batch=1,
    heads=2,
    heads_kv=1,
    causal=True,
)


@pytest.mark.parametrize("arch", ["sm90", "sm100"])
@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_results(arch, strategy):
    x = inputs.make(CASE, jnp.bfloat16)
    with jax_fa4.emulator.options(arch=arch):
        attention = meshes.context_parallel(
            meshes.mesh(context=2),
            layout="zigzag",
            strategy=strategy,
            causal=True,
            implementation="emulator",
        )
        actual = expected.results(attention, x, gradients=True)
    tolerances.check(actual, *expected.both(x, CASE, gradients=True))
