"""score_mod, mask_mod and dropout of arrays that are spread over devices: as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import AUTO, EXPLICIT, mesh

import jax_fa4
from jax_fa4.ops import blocks

SLOPES = jnp.array([0.5, -0.3])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_WIDEST", 16)
    monkeypatch.setattr(blocks, "_GRAIN", 4)
    jax.clear_caches()
    yield
    jax.clear_caches()


def attend(q, slopes, **options):
    return jax_fa4.dot_product_attention(
        q,
        q,
        q,
        score_mod=lambda s, b, h, i, j: jnp.where(j < i, jnp.tanh(s + slopes[h] * (j - i)), s),
        mask_mod=lambda b, h, i, j: j <= i + 4 * h,
        **options,
    )


def results(call, *arrays):
    """A loss, and its gradients for q and the slopes, compiled."""

    def loss(*arrays):
        return (call(*arrays) ** 2).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(*arrays)


def same(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
def test_meshes(kind, dropout):
    q = jax.random.normal(jax.random.key(0), (4, 24, 2, 8))
    options = {"dropout_rate": 0.3, "dropout_rng": jax.random.key(1)} if dropout else {}
    call = functools.partial(attend, **options)
    wanted = results(call, q, SLOPES)
    devices = mesh(kind, (4,), ("x",))
    with jax.set_mesh(devices):
        spread = jax.device_put(q, NamedSharding(devices, P("x")))
        slopes = jax.device_put(SLOPES, NamedSharding(devices, P()))
        found = results(call, spread, slopes)
    same(found, wanted)
    assert found[1][0].sharding.is_equivalent_to(spread.sharding, 4)


@pytest.mark.parametrize(("check", "varies"), [(False, False), (True, False), (True, True)])
def test_captured_arrays_in_shard_map(check, varies):
    """Each device's blocks; the gradient of slopes that all share is summed over devices."""
    q = jax.random.normal(jax.random.key(0), (4, 24, 2, 8))
    devices = mesh(AUTO, (4,), ("x",))
    specs = {"in_specs": (P("x"), P()), "out_specs": P("x")}

    def local(q, slopes):
        return attend(q, jax.lax.pcast(slopes, "x", to="varying") if varies else slopes)

    call = jax.shard_map(local, mesh=devices, check_vma=check, **specs)
    same(results(call, q, SLOPES), results(attend, q, SLOPES))
