"""The definition in jnp is the definition in numpy, gradients by autodiff included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.ops import reference
from jax_fa4.testing import expected, inputs


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", ["rows-without-keys", "grouped"])
def test_reference_in_float64(name, dense):
    case = next(case for case in inputs.CASES if case.name == name)
    shape = (1, case.heads, case.query_length, case.key_length)
    key = jax.random.key(1)
    bias = jax.random.normal(key, shape) if dense else None
    mask = jax.random.bernoulli(key, 0.9, shape) if dense else None
    x = inputs.make(case, jnp.float32)
    options = {"softmax_scale": case.scale, "band": case.band}
    exact = expected.exact(x, bias=bias, mask=mask, **options)
    with jax.enable_x64(True):
        wide = inputs.Inputs(*(np.asarray(a).astype(np.float64) for a in x))
        call = functools.partial(reference.attention, mask=mask, dtype=jnp.float64, **options)
        bias64 = None if bias is None else np.asarray(bias).astype(np.float64)
        found = expected.results(call, wide, bias64, gradients=True)
    assert found["out"].dtype == np.float64
    assert set(found) == {"out", "lse", "dq", "dk", "dv"} | ({"dbias"} if dense else set())
    for name, array in found.items():
        np.testing.assert_allclose(array, exact[name], rtol=1e-12, atol=1e-13)
