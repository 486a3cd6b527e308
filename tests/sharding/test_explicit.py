"""On meshes with explicit axes, the default of jax.make_mesh, shardings are part of the types.

jax #36539, #34811 (results typed replicated, gradients that raise), sglang-jax #1407.
"""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from meshes import (
    AUTO,
    BY_NAME,
    EXPLICIT,
    PROBLEMS,
    call,
    check,
    collectives,
    gradients,
    make,
    mesh,
    place,
    spec,
)

import jax_fa4
from jax_fa4.ops import partition

# A head dim is summed over, which the other operations around a call do not take in parts.
TYPED = [laid for laid in PROBLEMS if laid.name != "all-by-head-dim"]


def types(x):
    """Shardings in the types of traced values."""
    return [jax.typeof(a).sharding.spec for a in x]


@pytest.mark.parametrize("laid", TYPED, ids=lambda laid: laid.name)
def test_results_and_gradients(laid, implementation):
    x = make(laid)
    placed = place(mesh(EXPLICIT), laid, x)
    traced = []

    def run(x):
        found = gradients(call(laid.case, implementation))(x)
        traced.extend(zip(types(found), types((x.dout, x.dlse, *x[:3])), strict=True))
        return found

    compiled = jax.jit(run).lower(placed).compile()
    check(compiled(placed), laid.case, x)
    if laid.name != "other-axes":  # whose results are spread over those of the keys, too
        assert all(found == wanted for found, wanted in traced)
    if not laid.gathers and laid.key != P():  # gradients of whole keys are gathered
        assert set(collectives(compiled)) <= {"all-reduce"}


@pytest.mark.parametrize("is_set", [False, True])
@pytest.mark.parametrize("is_jitted", [False, True])
def test_the_mesh_may_be_the_context(is_set, is_jitted, emulated):
    devices = mesh(EXPLICIT)
    laid = BY_NAME["beyond-key-heads"]
    x = make(laid)
    run = gradients(call(laid.case, emulated))
    with jax.set_mesh(devices) if is_set else contextlib.nullcontext():
        found = (jax.jit(run) if is_jitted else run)(place(devices, laid, x))
    check(found, laid.case, x)
    assert [spec(a) for a in found[2:]] == [spec(a) for a in place(devices, laid, x)[:3]]


@pytest.mark.parametrize("kinds", [(EXPLICIT, AUTO, EXPLICIT), (AUTO, EXPLICIT, AUTO)], ids=str)
@pytest.mark.parametrize("name", ["batch-and-heads", "causal-rows"])
@pytest.mark.filterwarnings("ignore:jax_fa4. axes")
def test_some_axes_explicit(kinds, name, implementation):
    laid = BY_NAME[name]
    x = make(laid)
    run = jax.jit(gradients(call(laid.case, implementation)))
    check(run(place(mesh(kinds), laid, x)), laid.case, x)


def test_what_is_left_to_the_compiler_is_said(emulated):
    laid = BY_NAME["batch-and-heads"]
    placed = place(mesh((AUTO, EXPLICIT, AUTO)), laid, make(laid))
    partition._warn_of_automatic_axes.cache_clear()
    jax.clear_caches()  # else a call traced before is not traced again
    with pytest.warns(UserWarning, match="axes x, z of the mesh are left to the compiler"):
        jax.jit(call(laid.case, emulated)).lower(*placed[:3])


def test_a_bias_and_a_mask():
    """The portable path's own arrays, whole or in parts, and the sums of their gradients."""
    laid = BY_NAME["batch-and-heads"]
    devices = mesh(EXPLICIT)
    x = make(laid, jnp.float32)
    q, k, v = place(devices, laid, x)[:3]
    shape = (laid.case.heads, laid.case.query_length, laid.case.key_length)
    biases = jax.random.normal(jax.random.key(0), (1, *shape)), jnp.ones((2, 1, 1, shape[2]))
    mask = jnp.arange(shape[2]) % 5 > 0

    def loss(q, k, v, *biases):
        out = sum(jax_fa4.dot_product_attention(q, k, v, b, mask) for b in biases)
        return (out**2).sum()

    run = jax.grad(loss, argnums=(0, 1, 2, 3, 4))
    specs = P(None, "y"), P("x")
    placed = [
        jax.device_put(b, jax.NamedSharding(devices, s)) for b, s in zip(biases, specs, strict=True)
    ]
    for a, b in zip(jax.jit(run)(q, k, v, *placed), run(*x[:3], *biases), strict=True):
        assert jnp.abs(jax.device_get(a) - b).max() <= 2**-16 * jnp.abs(b).max()
