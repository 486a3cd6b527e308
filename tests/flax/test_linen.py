"""attention_fn in flax.linen layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.flax import attention_fn

X = jax.random.normal(jax.random.key(0), (2, 3, 9, 16))  # two batch axes


def layer(function=None, **options):
    if function is not None:
        options["attention_fn"] = function
    return nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=16, **options)


def outputs(ours, theirs, *args, **options):
    """Both layers on the same parameters."""
    parameters = theirs.init(jax.random.key(1), X)
    return ours.apply(parameters, *args, **options), theirs.apply(parameters, *args, **options)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_plain():
    close(*outputs(layer(attention_fn), layer(), X))


@pytest.mark.parametrize("dtype", [jnp.float32, bool])
def test_mask_of_either_dtype(dtype):
    """Flax's masks are float32 by default, and are not dropped."""
    mask = nn.make_causal_mask(jnp.ones((2, 3, 9)), dtype=dtype)
    ours, theirs = outputs(layer(attention_fn), layer(), X, mask=mask)
    close(ours, theirs)
    unmasked, _ = outputs(layer(attention_fn), layer(), X)
    assert np.abs(ours - unmasked).max() > 1e-3


def test_causal_by_partial():
    causal = functools.partial(attention_fn, is_causal=True)
    parameters = layer().init(jax.random.key(1), X)
    mask = nn.make_causal_mask(jnp.ones((2, 3, 9)))
    close(layer(causal).apply(parameters, X), layer().apply(parameters, X, mask=mask))


def test_gradients():
    theirs, ours = layer(), layer(attention_fn)
    parameters = theirs.init(jax.random.key(1), X)

    def loss(module, parameters):
        return (module.apply(parameters, X) ** 2).sum()

    a, b = (jax.grad(functools.partial(loss, m))(parameters) for m in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), a, b)


def test_dtype_of_the_layer():
    ours, theirs = outputs(layer(attention_fn, dtype=jnp.bfloat16), layer(dtype=jnp.bfloat16), X)
    assert ours.dtype == theirs.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), atol=3e-2)


def test_decode():
    """One token at a time through the cache: the dense mask of Flax's decoding."""
    ours, theirs = layer(attention_fn, decode=True), layer(decode=True)
    x = X[0]
    variables = theirs.init(jax.random.key(1), x)
    caches = [variables["cache"]] * 2
    for i in range(4):
        token = x[:, i : i + 1]
        results = []
        for n, module in enumerate((ours, theirs)):
            out, updated = module.apply(
                {"params": variables["params"], "cache": caches[n]}, token, mutable=["cache"]
            )
            caches[n] = updated["cache"]
            results.append(out)
        close(*results)


class TestRefusals:
    def apply(self, words, *, call=None, **options):
        module = layer(attention_fn, **options)
        parameters = layer().init(jax.random.key(1), X)
        with pytest.raises(NotImplementedError, match=words):
            module.apply(parameters, X, rngs={"dropout": jax.random.key(2)}, **(call or {}))

    def test_dropout(self):
        self.apply(r"dropout_rate=0\.1.*deterministic", dropout_rate=0.1, deterministic=False)

    def test_dropout_that_is_off(self):
        module = layer(attention_fn, dropout_rate=0.1, deterministic=True)
        close(*outputs(module, layer(), X))

    def test_sow_weights(self):
        self.apply("module=.*sow_weights", call={"sow_weights": True})

    def test_precision(self):
        self.apply("precision=.*default_matmul_precision", precision=jax.lax.Precision.HIGHEST)

    def test_einsum_override(self):
        class Einsum(nn.Module):
            @nn.compact
            def __call__(self, *args, **kwargs):
                return jnp.einsum(*args, **kwargs)

        self.apply("qk_attn_weights_einsum=Einsum", qk_attn_weights_einsum_cls=Einsum)
