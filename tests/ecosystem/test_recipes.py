"""The recipes in examples/recipes do what the layers that they stand for do."""

import functools
import inspect
import os
import warnings

import jax
import jax.numpy as jnp
import pytest

from tests.ecosystem import agreement

WIDTH, HEADS, LENGTH = 32, 4, 9
X = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
CAUSAL = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))


def library(name):
    """The library of a recipe; where it is absent, the skip says how to have it."""
    return pytest.importorskip(
        name, reason=f"NOT TESTED HERE, needs {name}: pip install 'jax_fa4[ecosystem]'"
    )


def with_gradient(function, *arguments):
    """Value, and gradients of the sum of its squares with respect to all arguments."""

    def loss(*arguments):
        return (function(*arguments).astype(jnp.float32) ** 2).sum()

    numbers = tuple(range(len(arguments)))
    gradients = jax.jit(jax.grad(loss, argnums=numbers))(*arguments)
    return [jax.jit(function)(*arguments), *jax.tree.leaves(gradients)]


def test_jax_nn():
    from examples.recipes import jax_nn

    weights = jax.random.normal(jax.random.key(1), (3, WIDTH, WIDTH)) * WIDTH**-0.5

    def run(attention, dtype):
        def layer(x, weights):
            q, k, v = ((x @ w).reshape(2, LENGTH, HEADS, -1) for w in weights)
            return attention(q, k, v, is_causal=True).reshape(x.shape)

        return with_gradient(layer, X.astype(dtype), weights.astype(dtype))

    ours = with_gradient(
        lambda x, w: jax_nn.causal_self_attention(x, w, HEADS),
        X.astype(jnp.bfloat16),
        weights.astype(jnp.bfloat16),
    )
    theirs = run(jax.nn.dot_product_attention, jnp.bfloat16)
    with jax.enable_x64():
        exact = run(jax.nn.dot_product_attention, jnp.float64)
    agreement.check(ours, theirs, exact)


def test_flax_nnx():
    library("flax")
    from flax import nnx

    from examples.recipes import flax_layers

    def layer(dtype):
        return nnx.MultiHeadAttention(HEADS, WIDTH, dtype=dtype, decode=False, rngs=nnx.Rngs(0))

    def run(layer):
        graph, state = nnx.split(layer)

        def call(state, x):
            return nnx.merge(graph, state)(x, is_causal=True)

        return with_gradient(call, state, X)

    ours = run(flax_layers.nnx_layer(WIDTH, HEADS, nnx.Rngs(0)))
    agreement.check(ours, run(layer(jnp.bfloat16)), run(layer(jnp.float32)))


def test_flax_linen():
    library("flax")
    import flax.linen as nn

    from examples.recipes import flax_layers

    def layer(dtype):
        return nn.MultiHeadDotProductAttention(HEADS, qkv_features=WIDTH, dtype=dtype)

    parameters = layer(jnp.float32).init(jax.random.key(1), X)

    def run(layer, **mask):
        return with_gradient(lambda p, x: layer.apply(p, x, **mask), parameters, X)

    ours = run(flax_layers.linen_layer(WIDTH, HEADS))
    agreement.check(ours, *(run(layer(d), mask=CAUSAL) for d in (jnp.bfloat16, jnp.float32)))


def test_equinox():
    eqx = library("equinox")
    from examples.recipes import equinox_layer

    layer = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=jax.random.key(1))
    parameters, static = eqx.partition(layer, eqx.is_array)

    def run(call, dtype):
        def batched(parameters, x):
            return jax.vmap(lambda x: call(eqx.combine(parameters, static), x))(x)

        cast = jax.tree.map(lambda a: a.astype(dtype), (parameters, X))
        return with_gradient(batched, *cast)

    def theirs(layer, x):
        return layer(x, x, x, mask=CAUSAL)

    ours = run(equinox_layer.causal_self_attention, jnp.bfloat16)
    agreement.check(ours, run(theirs, jnp.bfloat16), run(theirs, jnp.float32))


@pytest.fixture
def keras(monkeypatch):
    """Keras on its JAX back end; its layers let ranks promote."""
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    with warnings.catch_warnings(action="ignore"), jax.numpy_rank_promotion("allow"):
        found = library("keras")
        assert found.backend.backend() == "jax"
        yield found


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "causal and masked"])
def test_keras(keras, masked):
    from examples.recipes import keras_layer

    mask = jax.random.bernoulli(jax.random.key(2), 0.7, (2, LENGTH, LENGTH)).at[..., 0].set(True)
    options = {"use_causal_mask": True} | ({"attention_mask": mask} if masked else {})
    # Without biases: that of the keys has gradient 0, whose rounding is no measure of anything.
    sizes = {"num_heads": HEADS, "key_dim": WIDTH // HEADS, "use_bias": False}
    first = keras.layers.MultiHeadAttention(**sizes)
    first(X, X)

    def run(kind, dtype):
        layer = kind(**sizes, dtype=dtype)
        layer(X, X)

        def call(weights, x):
            out, _ = layer.stateless_call(weights, [], x, x, **options)
            return out

        return with_gradient(call, [w.value for w in first.trainable_variables], X)

    theirs = keras.layers.MultiHeadAttention
    ours = run(keras_layer.MultiHeadAttention, "mixed_bfloat16")
    agreement.check(ours, run(theirs, "mixed_bfloat16"), run(theirs, "float32"))


def test_keras_refuses_what_it_would_drop(keras):
    from examples.recipes import keras_layer

    layer = keras_layer.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=0.5)
    with pytest.raises(NotImplementedError, match="no scores and no dropout"):
        layer(X, X, training=True)
    with pytest.raises(NotImplementedError, match="no scores and no dropout"):
        layer(X, X, return_attention_scores=True)


class Operator:
    """What the recipe reads of MaxText's attention operator."""

    dropout_rate = 0.0


@pytest.mark.parametrize("packed", [False])
def test_maxtext(packed):
    """The method by the signature that MaxText calls it with; queries are scaled already."""
    from examples.recipes.maxtext_call import cudnn_jax_flash_attention

    parameters = list(inspect.signature(cudnn_jax_flash_attention).parameters)
    assert parameters == ["self", "query", "key", "value", "decoder_segment_ids", "model_mode"]
    ids = jnp.array([[1] * 4 + [2] * 5, [1] * 6 + [0] * 3]) if packed else None
    keys = jax.random.split(jax.random.key(3), 3)
    q, k, v = (
        jax.random.normal(key, (2, LENGTH, heads, 16)) * 16**-0.25
        for key, heads in zip(keys, (4, 2, 2), strict=True)
    )
    mask = None if ids is None else (ids[:, :, None] == ids[:, None, :])[:, None]

    def theirs(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, scale=1.0)

    def ours(q, k, v):
        return cudnn_jax_flash_attention(Operator(), q, k, v, ids)[0]

    def run(function, dtype):
        return with_gradient(function, *(x.astype(dtype) for x in (q, k, v)))

    agreement.check(run(ours, jnp.bfloat16), run(theirs, jnp.bfloat16), run(theirs, jnp.float32))
    _, lse = cudnn_jax_flash_attention(Operator(), q, k, v, ids)
    assert (lse.shape, lse.dtype) == ((2, 4, LENGTH), jnp.float32), "as cuDNN's: (B, N, T)"


def test_maxtext_saves_the_name_of_its_policies():
    from examples.recipes.maxtext_call import cudnn_jax_flash_attention

    saved = jax.checkpoint_policies.save_only_these_names("context")
    x = jnp.ones((1, 4, 2, 8), jnp.bfloat16)

    @functools.partial(jax.checkpoint, policy=saved)
    def attend(x):
        return cudnn_jax_flash_attention(Operator(), x, x, x, None)[0]

    text = str(jax.make_jaxpr(jax.grad(lambda x: attend(x).astype(jnp.float32).sum()))(x))
    assert text.count("name=context") >= 2


def test_maxtext_refuses_what_it_would_drop():
    from examples.recipes.maxtext_call import cudnn_jax_flash_attention

    x = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="attention=dot_product"):
        cudnn_jax_flash_attention(Operator(), x, x, x, None, "autoregressive")
