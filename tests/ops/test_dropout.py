"""Dropout: the same probabilities are dropped in the forward and the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import blocks
from jax_fa4.testing import inputs

CASE = inputs.Case(name="drop", query_length=40, key_length=24, heads=4, heads_kv=2, head_dim=16)
attend = jax_fa4.dot_product_attention
RATE = 0.3


def kept(key, **options):
    """What each probability was multiplied by, read off outputs: one value per key is 1."""
    q, k = jnp.zeros((2, 40, 4, 16)), jnp.zeros((2, 24, 2, 16))
    v = jnp.broadcast_to(jnp.eye(24)[None, :, None], (2, 24, 2, 24))
    out = attend(q, k, v, dropout_rate=RATE, dropout_rng=key, **options)
    return (out * 24).transpose(0, 2, 1, 3)  # (B, H, Sq, Sk)


@pytest.mark.parametrize("side", [512, 16])
def test_gradients_are_those_of_the_same_drops(side, monkeypatch):
    monkeypatch.setattr(blocks, "_WIDEST", side)
    monkeypatch.setattr(blocks, "_GRAIN", 4)
    jax.clear_caches()
    x = inputs.make(CASE, jnp.float32)
    key = jax.random.key(5)
    factors = kept(key)
    cut = np.asarray(factors[:, :, :32]).reshape(2, 4, 2, 16, 2, 12).swapaxes(3, 4)
    assert len(np.unique(cut.reshape(32, -1), axis=0)) == 32  # no block repeats another's draws

    def ours(q, k, v):
        return attend(q, k, v, dropout_rate=RATE, dropout_rng=key, return_residual=True)

    def wanted(q, k, v):
        scores = jnp.einsum("bihd,bjhd->bhij", q, jnp.repeat(k, 2, 2)) / 4
        weights = jax.nn.softmax(scores) * factors
        lse = jax.nn.logsumexp(scores, axis=-1).swapaxes(1, 2)
        return jnp.einsum("bhij,bjhd->bihd", weights, jnp.repeat(v, 2, 2)), lse

    cotangents = (x.dout, x.dlse.swapaxes(1, 2))
    for f in (lambda g: g(*x[:3]), lambda g: jax.vjp(g, *x[:3])[1](cotangents)):
        for a, b in zip(f(ours), f(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.clear_caches()


def test_the_rate_and_the_keys():
    factors = np.asarray(kept(jax.random.key(0)))
    values = np.unique(np.round(factors, 4))
    np.testing.assert_allclose(values, [0, 1 / (1 - RATE)], atol=1e-3)
    assert abs((factors == 0).mean() - RATE) < 0.02  # 7680 draws: 5 standard deviations are 0.026
    np.testing.assert_array_equal(factors, kept(jax.random.key(0)))
    assert (factors != kept(jax.random.key(1))).any()
    np.testing.assert_array_equal(factors, kept(jax.random.PRNGKey(0)))  # of the older kind
    assert (factors[0] != factors[1]).any()
    assert (factors[0, 0] != factors[0, 1]).any()
    shared = np.asarray(kept(jax.random.key(0), broadcast_dropout=True))
    assert (shared == shared[:1, :1]).all()


def test_traced_keys_remat_and_no_rate():
    x = inputs.make(CASE, jnp.float32)
    call = jax.jit(lambda key, q: attend(q, *x[1:3], dropout_rate=RATE, dropout_rng=key).sum())
    key = jax.random.key(3)
    one = jax.grad(call, argnums=1)(key, x.q)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(call), argnums=1)(key, x.q), one, atol=1e-6)
    np.testing.assert_array_equal(attend(*x[:3], dropout_rate=0.0), attend(*x[:3]))


class TestRefusals:
    q = jax.ShapeDtypeStruct((1, 4, 2, 16), jnp.bfloat16)

    @pytest.mark.parametrize("rate", [1.0, -0.1, "half", True, float("nan")])
    def test_rates(self, rate):
        with pytest.raises(ValueError, match=r"dropout_rate is .*below 1"):
            jax.eval_shape(functools.partial(attend, dropout_rate=rate), *[self.q] * 3)
        with pytest.raises(ValueError, match=r"dropout_rate is .*below 1"):
            jax_fa4.explain(*[self.q] * 3, dropout_rate=rate)

    def test_no_key_or_many(self):
        with pytest.raises(ValueError, match=r"dropout_rate=0.1 needs a key; pass dropout_rng="):
            jax.eval_shape(functools.partial(attend, dropout_rate=0.1), *[self.q] * 3)
        keys = jax.random.split(jax.random.key(0), 2)
        with pytest.raises(ValueError, match=r"dropout_rng has shape \(2,\)"):
            jax.eval_shape(
                functools.partial(attend, dropout_rate=0.1, dropout_rng=keys), *[self.q] * 3
            )

    def test_traced_rate(self):
        with pytest.raises(NotImplementedError, match="dropout_rate is a traced value"):
            jax.eval_shape(
                lambda q, rate: attend(q, q, q, dropout_rate=rate),
                self.q,
                jax.ShapeDtypeStruct((), jnp.float32),
            )

    @pytest.mark.usefixtures("hopper")
    def test_kernels(self):
        options = {"dropout_rate": 0.1, "dropout_rng": jax.random.key(0)}
        with pytest.raises(NotImplementedError, match=r"dropout_rate is given.*'xla'"):
            jax.eval_shape(
                functools.partial(attend, implementation="fa4", **options), *[self.q] * 3
            )
        assert "no dropout" in jax_fa4.explain(*[self.q] * 3, **options)
