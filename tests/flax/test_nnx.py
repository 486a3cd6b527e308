"""attention_fn in flax.nnx layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_fa4.flax import attention_fn

X = jax.random.normal(jax.random.key(0), (2, 3, 9, 16))  # two batch axes


def layer(function=None, **options):
    """A layer with the parameters that its seed gives, the same for every function."""
    if function is not None:
        options["attention_fn"] = function
    return nnx.MultiHeadAttention(
        num_heads=4, in_features=16, rngs=nnx.Rngs(0), **{"decode": False} | options
    )


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_plain():
    close(layer(attention_fn)(X), layer()(X))


def test_causal_is_the_layers_argument():
    ours = layer(attention_fn)(X, is_causal=True)
    close(ours, layer()(X, is_causal=True))
    assert np.abs(ours - layer(attention_fn)(X)).max() > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, bool])
def test_mask_of_either_dtype(dtype):
    mask = nnx.make_causal_mask(jnp.ones((2, 3, 9)), dtype=dtype)
    close(layer(attention_fn)(X, mask=mask), layer()(X, is_causal=True))


def test_gradients():
    def loss(module):
        return (module(X, is_causal=True) ** 2).sum()

    ours, theirs = (nnx.grad(loss)(module) for module in (layer(attention_fn), layer()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_decode():
    ours, theirs = layer(attention_fn, decode=True), layer(decode=True)
    for module in (ours, theirs):
        module.init_cache((2, 6, 16))
    for i in range(4):
        token = X[:, 0, i : i + 1]
        close(ours(token), theirs(token))


class TestRefusals:
    def test_dropout(self):
        module = layer(attention_fn, dropout_rate=0.1)
        with pytest.raises(NotImplementedError, match=r"dropout_rate=0\.1.*deterministic"):
            module(X, deterministic=False)
        close(module(X, deterministic=True), layer()(X))

    def test_sow_weights(self):
        with pytest.raises(NotImplementedError, match="sow_weights=False"):
            layer(attention_fn)(X, sow_weights=True)

    def test_input_positions(self):
        with pytest.raises(NotImplementedError, match="input_positions="):
            attention_fn(X, X, X, input_positions=jnp.arange(9))
