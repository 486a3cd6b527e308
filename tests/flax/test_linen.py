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


def test_decode_is_the_causal_pass_step_by_step():
    """One token at a time through the cache, by the function that trains: causal by partial."""
    x = X[0]
    causal = functools.partial(attention_fn, is_causal=True)
    module = layer(causal, decode=True)
    variables = module.init(jax.random.key(1), x)
    whole = layer(causal).apply({"params": variables["params"]}, x)
    mask = nn.make_causal_mask(jnp.ones((3, 9)))
    close(whole, layer().apply({"params": variables["params"]}, x, mask=mask))

    @jax.jit
    def step(cache, token):
        return module.apply({**variables, "cache": cache}, token, mutable=["cache"])

    cache = variables["cache"]
    for i in range(9):
        out, updated = step(cache, x[:, i : i + 1])
        cache = updated["cache"]
        close(out, whole[:, i : i + 1])


def test_dropout():
    """Flax's broadcast: the same drops in all batch elements and heads."""
    ones = jnp.ones((2, 9, 4, 4))
    values = jnp.broadcast_to(jnp.eye(9)[None, :, None], (2, 9, 4, 9))
    options = {"dropout_rate": 0.4, "dropout_rng": jax.random.key(0), "deterministic": False}
    kept = 9 * attention_fn(ones, ones, values, **options)
    np.testing.assert_allclose(np.unique(np.round(kept, 4)), [0, 1 / 0.6], atol=1e-3)
    close(kept, jnp.broadcast_to(kept[:1, :, :1], kept.shape))
    own = 9 * attention_fn(ones, ones, values, broadcast_dropout=False, **options)
    assert np.abs(own - own[:1, :, :1]).max() > 1

    module = layer(attention_fn, dropout_rate=0.4, deterministic=False)
    parameters = layer().init(jax.random.key(1), X)
    one, other = (module.apply(parameters, X, rngs={"dropout": jax.random.key(n)}) for n in (1, 2))
    assert np.abs(one - other).max() > 1e-3


def test_what_flax_has_no_argument_for():
    """By functools.partial, as an array of the trace or outside of it."""
    x = X[0]
    ids = jnp.repeat(jnp.arange(3), 3)[None].repeat(3, 0)
    parameters = layer().init(jax.random.key(1), x)

    @jax.jit
    def packed(ids):
        function = functools.partial(attention_fn, query_segment_ids=ids, logits_soft_cap=1e3)
        return layer(function).apply(parameters, x)

    mask = ids[:, None, :, None] == ids[:, None, None, :]
    np.testing.assert_allclose(
        packed(ids), layer().apply(parameters, x, mask=mask), rtol=1e-3, atol=1e-4
    )


class TestRefusals:
    def apply(self, words, *, call=None, **options):
        module = layer(attention_fn, **options)
        parameters = layer().init(jax.random.key(1), X)
        with pytest.raises(NotImplementedError, match=words):
            module.apply(parameters, X, rngs={"dropout": jax.random.key(2)}, **(call or {}))

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
