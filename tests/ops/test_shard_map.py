"""Inside jax.shard_map with check_vma: types, gradients, scan, on four CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jax_fa4
from jax_fa4.ffi import FORWARD_TARGET

SHAPE = (8, 640, 2, 16)  # more than one block


def mesh():
    return jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:4])


def qkv(dtype=jnp.float32, value_width=16):
    keys = jax.random.split(jax.random.key(7), 3)
    shapes = (SHAPE, SHAPE, (*SHAPE[:-1], value_width))
    return tuple(
        jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)
    )


def mapped(function, shared_keys, out_spec):
    spec = PartitionSpec("x")
    keys = PartitionSpec() if shared_keys else spec
    return jax.shard_map(
        function, mesh=mesh(), in_specs=(spec, keys, keys), out_specs=out_spec, check_vma=True
    )


def total(q, k, v):
    return (jax_fa4.flash_attention(q, k, v, causal=True).astype(jnp.float32) ** 2).sum()


@pytest.mark.parametrize(("shared_keys", "value_width"), [(False, 16), (True, 16), (True, 24)])
def test_gradients(shared_keys, value_width):
    q, k, v = qkv(value_width=value_width)
    if shared_keys:
        k, v = k[:2], v[:2]

    def loss(q, k, v):
        body = mapped(
            lambda q, k, v: jax.lax.psum(total(q, k, v), "x"), shared_keys, PartitionSpec()
        )
        return body(q, k, v)

    ours = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    repeat = (lambda a: jnp.tile(a, (4, 1, 1, 1))) if shared_keys else (lambda a: a)
    wanted = jax.grad(lambda q, k, v: total(q, repeat(k), repeat(v)), argnums=(0, 1, 2))(q, k, v)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_scan():
    def layers(q, k, v):
        def layer(x, _):
            return jax_fa4.flash_attention(x, k, v), None

        return jax.lax.scan(layer, q, None, length=2)[0]

    q, k, v = qkv()
    ours = jax.jit(mapped(layers, False, PartitionSpec("x")))(q, k, v)
    np.testing.assert_allclose(ours, layers(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("no_gpu")
def test_custom_calls_carry_the_manual_axes():
    """The gradient of the kernel path type-checks and lowers for CUDA."""

    def body(q, k, v):
        return jax.grad(total, argnums=(0, 1, 2))(q, k, v)

    program = jax.jit(mapped(body, False, PartitionSpec("x")))
    args = qkv(jnp.bfloat16, value_width=24)
    lowered = program.trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert f"custom_call @{FORWARD_TARGET}(" in lowered


@pytest.mark.parametrize("heads_kv", [1, 2])
def test_more_devices_than_key_heads(heads_kv):
    """Query heads over four devices; each takes the key head of its own from those of all."""
    keys = jax.random.split(jax.random.key(3), 3)
    shapes = ((2, 70, 8, 16), *[(2, 90, heads_kv, 16)] * 2)
    arrays = [jax.random.normal(key, s) for key, s in zip(keys, shapes, strict=True)]

    def local(q, k, v):
        own = jax.lax.axis_index("x") * heads_kv // 4
        k, v = (jax.lax.dynamic_slice_in_dim(a, own, 1, axis=2) for a in (k, v))
        return jax.lax.psum(total(q, k, v), "x")

    heads, everywhere = PartitionSpec(None, None, "x"), PartitionSpec()
    sharded = jax.shard_map(
        local, mesh=mesh(), in_specs=(heads, everywhere, everywhere), out_specs=PartitionSpec()
    )
    ours = jax.jit(jax.grad(sharded, argnums=(0, 1, 2)))(*arrays)
    for a, b in zip(ours, jax.grad(total, argnums=(0, 1, 2))(*arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
