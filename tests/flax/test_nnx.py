"""attention_fn in flax.nnx layers."""

import functools

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


def test_decode_is_the_causal_pass_step_by_step():
    """And under jit, with fewer key heads than query heads."""
    options = {"num_kv_heads": 2}
    whole = layer(attention_fn, **options)(X[:, 0], is_causal=True)
    close(whole, layer(**options)(X[:, 0], is_causal=True))
    module = layer(attention_fn, decode=True, **options)
    module.init_cache((2, 12, 16))
    step = nnx.jit(lambda module, token: module(token, is_causal=True))
    for i in range(9):
        close(step(module, X[:, 0, i : i + 1]), whole[:, i : i + 1])


def test_dropout():
    module = layer(attention_fn, dropout_rate=0.4)
    close(module(X, deterministic=True), layer()(X))
    one, other = (module(X, deterministic=False, rngs=nnx.Rngs(dropout=n)) for n in (1, 2))
    assert np.abs(one - other).max() > 1e-3
    close(module(X, deterministic=False, rngs=nnx.Rngs(dropout=1)), one)
    assert jnp.isfinite(
        nnx.grad(lambda m: m(X, deterministic=False).sum())(module).out.kernel
    ).all()


class TestRefusals:
    def test_window_in_decoding(self):
        windowed = functools.partial(attention_fn, local_window_size=(3, 0))
        module = layer(windowed, decode=True)
        module.init_cache((2, 6, 16))
        with pytest.raises(NotImplementedError, match=r"local_window_size=\(3, 0\).*mask"):
            module(X[:, 0, :1])

    def test_sow_weights(self):
        with pytest.raises(NotImplementedError, match="sow_weights=False"):
            layer(attention_fn)(X, sow_weights=True)

    def test_input_positions(self):
        with pytest.raises(NotImplementedError, match="input_positions="):
            attention_fn(X, X, X, input_positions=jnp.arange(9))
