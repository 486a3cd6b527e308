"""dot_product_attention is a drop-in: the results of jax.nn.dot_product_attention itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

LENGTHS = [(1, 239), (113, 113), (113, 239), (239, 113)]


def compare(case, implementation, *, dense=None, dtype=None, **options):
    """Our results and gradients and jax.nn's are equally close to the same float64 values."""
    dtype = dtype or (jnp.bfloat16 if implementation == "fa4" else jnp.float32)
    dense = dense or {}
    x = inputs.make(case, dtype)
    x = x._replace(dlse=jnp.zeros_like(x.dlse))

    def run(function):
        names = ("query", "key", "value", *dense)
        call = jax.jit(lambda arrays: function(**arrays, **options))
        arrays = dict(zip(names, (*x[:3], *dense.values()), strict=True))
        out, pull = jax.vjp(call, arrays)
        (grads,) = pull(x.dout)
        kept = {"query": "dq", "key": "dk", "value": "dv", "bias": "dbias"}
        found = {"out": out} | {kept[name]: grads[name] for name in names if name in kept}
        return {name: np.asarray(a) for name, a in found.items()}

    meaning = {"softmax_scale": case.scale, "band": case.band} | dense
    exact = expected.exact(x, **meaning)
    plain = expected.plain(x, gradients=True, **meaning)
    tolerances.check(run(jax.nn.dot_product_attention), exact, plain)
    ours = functools.partial(jax_fa4.dot_product_attention, implementation=implementation)
    tolerances.check(run(ours), exact, plain)


def as_float32(*arrays):
    return [np.asarray(x, np.float32) for x in arrays]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("sq", "sk"), LENGTHS)
def test_lengths(sq, sk, is_causal, implementation):
    case = inputs.Case(
        name="jax.nn",
        query_length=sq,
        key_length=sk,
        head_dim=32,
        causal=is_causal,
        alignment="top_left",
    )
    compare(case, implementation, is_causal=is_causal)


@pytest.mark.parametrize("heads_kv", [1, 2, 6])
def test_grouped_heads(heads_kv, implementation):
    case = inputs.Case(
        name="groups", query_length=40, key_length=50, heads=6, heads_kv=heads_kv, head_dim=16
    )
    compare(case, implementation)


@pytest.mark.parametrize("window", [0, 7, (5, 2), (300, 0)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_windows(window, is_causal, implementation):
    sides = (window, window) if isinstance(window, int) else window
    case = inputs.Case(
        name="window",
        query_length=70,
        key_length=90,
        head_dim=16,
        window=sides,
        causal=is_causal,
        alignment="top_left",
    )
    compare(case, implementation, local_window_size=window, is_causal=is_causal)


def test_bfloat16(implementation):
    case = inputs.Case(
        name="half", query_length=64, key_length=64, causal=True, alignment="top_left"
    )
    compare(case, implementation, dtype=jnp.bfloat16, is_causal=True)


def test_scale(implementation):
    case = inputs.Case(name="scale", query_length=30, key_length=30, softmax_scale=0.05)
    compare(case, implementation, scale=0.05)


@pytest.mark.parametrize("shape", [(2, 4, 20, 30), (1, 4, 1, 30), (2, 1, 20, 1), (1, 1, 20, 30)])
@pytest.mark.parametrize("argument", ["bias", "mask"])
def test_bias_and_mask(argument, shape):
    key = jax.random.key(3)
    array = (
        jax.random.normal(key, shape)
        if argument == "bias"
        else jax.random.bernoulli(key, 0.8, shape)
    )
    if argument == "mask":  # no row without a key: there jax.nn means something else
        array = array.at[..., 0].set(True)
    case = inputs.Case(
        name="dense", query_length=20, key_length=30, heads=4, heads_kv=2, head_dim=16
    )
    compare(case, "xla", dense={argument: array})


def test_three_axes(implementation):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 24, 4, 32), jnp.bfloat16) for i in range(3))
    call = functools.partial(
        jax_fa4.dot_product_attention, is_causal=True, implementation=implementation
    )
    whole, one = call(q, k, v), call(q[1], k[1], v[1])
    assert one.shape == (24, 4, 32)
    np.testing.assert_allclose(*as_float32(one, whole[1]), atol=jnp.finfo(jnp.bfloat16).eps)
    _, lse = call(q[1], k[1], v[1], return_residual=True)
    assert lse.shape == (24, 4)


def test_several_batch_axes(implementation):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, 3, 2, 17, 4, 32), jnp.bfloat16) for i in range(3)
    )
    call = functools.partial(
        jax_fa4.dot_product_attention, return_residual=True, implementation=implementation
    )
    out, lse = call(q, k, v)
    assert out.shape == q.shape
    assert lse.shape == (2, 3, 2, 17, 4)
    one, one_lse = call(q[1, 2], k[1, 2], v[1, 2])
    np.testing.assert_allclose(*as_float32(out[1, 2], one), atol=jnp.finfo(jnp.bfloat16).eps)
    np.testing.assert_allclose(lse[1, 2], one_lse, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 1, 1, 17, 17), (1, 2, 4, 17, 17), (4, 1, 17), (17, 17)])
def test_mask_with_several_batch_axes(shape):
    x = inputs.make(
        inputs.Case(name="axes", batch=6, query_length=17, key_length=17, heads=4, heads_kv=4),
        jnp.float32,
    )
    q, k, v = (a.reshape(3, 2, *a.shape[1:]) for a in x[:3])
    mask = jax.random.bernoulli(jax.random.key(0), 0.7, shape).at[..., 0].set(True)
    out = jax_fa4.dot_product_attention(q, k, v, mask=mask)
    full = jnp.broadcast_to(mask.reshape((1,) * (5 - mask.ndim) + mask.shape), (3, 2, 4, 17, 17))
    wanted = jax.nn.dot_product_attention(*x[:3], mask=full.reshape(6, 4, 17, 17))
    np.testing.assert_allclose(out.reshape(wanted.shape), wanted, atol=2e-6)


def test_lse_is_float32_and_differentiable_where_jax_nn_stops():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 9, 2, 8), jnp.bfloat16) for i in range(3))

    def total(function, q):
        return function(q, k, v, return_residual=True)[1].astype(jnp.float32).sum()

    _, ours = jax_fa4.dot_product_attention(q, k, v, return_residual=True)
    _, theirs = jax.nn.dot_product_attention(q, k, v, return_residual=True)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs.astype(jnp.float32), rtol=jnp.finfo(jnp.bfloat16).eps)
    assert jax.grad(functools.partial(total, jax_fa4.dot_product_attention))(q).any()
