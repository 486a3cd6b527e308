"""Soft caps and sinks: values and gradients by their definition, on the portable path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jax_fa4
from jax_fa4.ops import blocks, reference, sinks
from jax_fa4.testing import expected, inputs, tolerances

CASE = inputs.Case(
    name="cap", query_length=50, key_length=70, heads=4, heads_kv=2, head_dim=16, causal=True
)


@pytest.fixture(params=[None, 16], ids=["one block", "blocks"])
def side(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(blocks, "_WIDEST", request.param)
        monkeypatch.setattr(blocks, "_GRAIN", 4)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("side")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("cap", [0.7, 30.0])
def test_soft_cap(cap, dtype):
    x = inputs.make(CASE, dtype)
    call = functools.partial(jax_fa4.flash_attention, causal=True, softcap=cap, return_lse=True)
    given = {"softmax_scale": CASE.scale, "band": CASE.band, "softcap": cap}
    out, lse = reference.attention(*x[:3], **given)
    gradients = reference.gradients(*x[:3], out, lse, *x[3:], **given)
    names = ("out", "lse", "dq", "dk", "dv")
    plain = dict(zip(names, map(np.asarray, (out, lse, *gradients)), strict=True))
    found = expected.results(call, x, gradients=True)
    tolerances.check(found, expected.exact(x, **given), plain)


def test_bias_comes_after_the_cap():
    """So that a bias of -inf hides keys under a cap, too."""
    x = inputs.make(CASE, jnp.float32)
    bias = jnp.zeros((1, 1, 50, 70)).at[..., 3].set(-jnp.inf)
    options = {"logits_soft_cap": 2.0, "return_residual": True}
    hidden = jnp.ones((1, 1, 1, 70), bool).at[..., 3].set(False)
    ours = jax_fa4.dot_product_attention(*x[:3], bias, **options)
    wanted = jax_fa4.dot_product_attention(*x[:3], mask=hidden, **options)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_no_cap_is_none_zero_or_left_out():
    x = inputs.make(CASE, jnp.float32)
    wanted = jax_fa4.dot_product_attention(*x[:3])
    for cap in (None, 0, 0.0):
        found = jax_fa4.dot_product_attention(*x[:3], logits_soft_cap=cap)
        np.testing.assert_array_equal(found, wanted)


def with_extra_key(q, k, v, sink):
    """The definition of a sink: one more key, of that score, whose value is 0."""
    scores = jnp.einsum("bihd,bjhd->bhij", q, jnp.repeat(k, 2, 2)) * CASE.scale
    offset = jnp.arange(70)[None] - jnp.arange(50)[:, None]
    scores = jnp.where((offset <= CASE.band.upper)[None, None], scores, -jnp.inf)
    column = jnp.broadcast_to(sink[None, :, None, None], (*scores.shape[:3], 1))
    scores = jnp.concatenate([scores, column], axis=-1)
    weights = jax.nn.softmax(scores)[..., :-1]
    out = jnp.einsum("bhij,bjhd->bihd", weights, jnp.repeat(v, 2, 2))
    return out, jax.nn.logsumexp(scores, axis=-1)


@pytest.mark.parametrize("level", [1, 2])
def test_sinks_are_a_key_without_a_value(level):
    x = inputs.make(CASE, jnp.float32)
    sink = jnp.array([-1.0, 0.0, 2.5, 40.0])

    def call(q, k, v, sink):
        if level == 2:
            return jax_fa4.flash_attention(
                q, k, v, causal=True, learnable_sink=sink, return_lse=True
            )
        out, lse = jax_fa4.dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            causal_alignment="bottom_right",
            sinks=sink,
            return_residual=True,
        )
        return out, lse.swapaxes(1, 2)

    found, wanted = (jax.vjp(f, *x[:3], sink) for f in (call, with_extra_key))
    for a, b in zip(
        (*found[0], *found[1]((x.dout, x.dlse))),
        (*wanted[0], *wanted[1]((x.dout, x.dlse))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_no_sink_is_minus_infinity():
    x = inputs.make(CASE, jnp.bfloat16)
    call = functools.partial(jax_fa4.flash_attention, return_lse=True)

    def total(sink, q):
        out, lse = call(q, *x[1:3], learnable_sink=sink)
        return (out.astype(jnp.float32) ** 2).sum() + lse.sum()

    none = jnp.full(4, -jnp.inf)
    for a, b in zip(call(*x[:3], learnable_sink=none), call(*x[:3]), strict=True):
        np.testing.assert_array_equal(a, b)
    dsink, dq = jax.grad(total, argnums=(0, 1))(none, x.q)
    assert not dsink.any()
    assert jnp.isfinite(dq).all()


def test_rows_that_see_nothing_have_the_sink_as_lse():
    x = inputs.make(CASE, jnp.float32)
    sink = jnp.array([1.0, -2.0, 3.0, -jnp.inf])

    def call(q, k, v, sink):
        return jax_fa4.dot_product_attention(
            q,
            k,
            v,
            sinks=sink,
            key_value_seq_lengths=jnp.array([0, 70]),
            return_residual=True,
        )

    (out, lse), pull = jax.vjp(call, *x[:3], sink)
    assert not out[0].any()
    np.testing.assert_array_equal(lse[0], jnp.broadcast_to(sink[None], (50, 4)))
    dq, dk, dv, dsink = pull((x.dout, jnp.ones_like(lse)))
    assert all(jnp.isfinite(d).all() for d in (dq, dk, dv, dsink))
    assert not dq[0].any()
    assert (dsink[:3] > 50).all()


def test_vmap_over_sinks_alone():
    x = inputs.make(CASE, jnp.float32)
    stack = jax.random.normal(jax.random.key(0), (3, 4))

    def total(sink, q):
        return (jax_fa4.flash_attention(q, *x[1:3], learnable_sink=sink) ** 2).sum()

    gradient = jax.grad(total, argnums=(0, 1))
    found = jax.vmap(gradient, (0, None))(stack, x.q)
    for i in range(3):
        for a, b in zip(found, gradient(stack[i], x.q), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


def test_derivatives_of_the_composition():
    keys = jax.random.split(jax.random.key(0), 3)
    with jax.enable_x64(True):
        out = jax.random.normal(keys[0], (1, 3, 2, 4), jnp.float64)
        lse = jax.random.normal(keys[1], (1, 2, 3), jnp.float64)
        sink = jax.random.normal(keys[2], (2,), jnp.float64)
        check_grads(sinks.include, (out, lse, sink), order=2)


@pytest.mark.usefixtures("hopper")
def test_kernels_take_sinks():
    """They are applied to results, so that every kernel serves."""
    x = inputs.make(CASE, jnp.bfloat16)
    assert jax_fa4.is_supported(*x[:3], sinks=jnp.ones(4)) is None
    assert "kernel fwd_sm90" in jax_fa4.explain(*x[:3], learnable_sink=jnp.ones(4))


@pytest.mark.parametrize("sink", [-30.0, -12.0, 0.0, 12.0])
def test_sinks_of_any_weight_have_their_gradient(sink):
    """Relative to itself: of out = v0 / (1 + e^sink), where score and lse are 0."""
    q = k = jnp.zeros((1, 1, 1, 8), jnp.float32)
    v = jnp.full((1, 1, 1, 8), 3.0, jnp.float32)

    def first(sinks):
        return jax_fa4.flash_attention(q, k, v, learnable_sink=sinks)[0, 0, 0, 0]

    found = jax.grad(first)(jnp.full(1, sink, jnp.float32))[0]
    wanted = -3.0 * np.exp(sink) / (1 + np.exp(sink)) ** 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
