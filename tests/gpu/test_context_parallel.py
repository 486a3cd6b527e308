"""One sequence over 2 and 4 GPUs of a host: values, gradients, bits, and what hides sends."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jax_fa4
from jax_fa4.testing import expected, inputs, meshes, tolerances

pytestmark = pytest.mark.gpu

CASE = inputs.Case(
    name="ring-gpu",
    query_length=2048,
    key_length=2048,
    heads=4,
    heads_kv=2,
    head_dim=128,
    causal=True,
)


@pytest.fixture(params=[2, 4])
def over(request):
    """A mesh of as many GPUs."""
    if jax.device_count() < request.param:
        pytest.skip(f"NOT TESTED HERE, needs {request.param} GPUs: {jax.device_count()} present")
    return meshes.mesh(context=request.param)


def attention(over, **options):
    return meshes.context_parallel(over, implementation="fa4", **options)


@pytest.mark.parametrize("window", [(None, None), (300, None)])
@pytest.mark.parametrize(
    ("strategy", "layout"),
    [
        ("ring", "zigzag"),
        ("ring", "striped"),
        ("ring", "contiguous"),
        ("ulysses", "contiguous"),
    ],
)
def test_results(over, strategy, layout, window):
    case = inputs.Case(**{**vars(CASE), "window": window})
    x = inputs.make(case, jnp.bfloat16)
    attend = attention(over, strategy=strategy, layout=layout, causal=True, window_size=window)
    actual = expected.results(attend, x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


def test_deterministic_gradients_keep_their_bits(over):
    x = inputs.make(CASE, jnp.bfloat16)
    attend = attention(over, layout="zigzag", causal=True, deterministic=True)
    runs = [expected.results(attend, x, gradients=True) for _ in range(3)]
    for other in runs[1:]:
        for name, array in runs[0].items():
            np.testing.assert_array_equal(array, other[name])


def test_sends_lie_around_kernels(over):
    """In the schedule of the compiled program a kernel runs between each send and its arrival."""
    spec = PartitionSpec(None, "context")
    sharding = jax.sharding.NamedSharding(over, spec)
    shapes = ((2, 2048, 4, 128), (2, 2048, 2, 128), (2, 2048, 2, 128))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]
    attend = functools.partial(
        jax_fa4.context_parallel_attention,
        mesh=over,
        spec=spec,
        layout="zigzag",
        causal=True,
        implementation="fa4",
    )
    # As command buffers, kernels would stand in computations of their own.
    as_they_come = {"xla_gpu_enable_command_buffer": ""}
    text = jax.jit(attend).lower(*arrays).compile(compiler_options=as_they_come).as_text()
    underway, hidden = 0, 0
    for line in text.splitlines():
        if "collective-permute-start(" in line:
            underway += 1
        elif "collective-permute-done(" in line:
            underway -= 1
        elif "custom-call(" in line and "jax_fa4_fwd" in line:
            hidden += underway > 0
    # All kernels but the last one's have the next keys on their way.
    assert hidden == over.size - 1
