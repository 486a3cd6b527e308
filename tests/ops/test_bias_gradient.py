"""The gradient of a bias that broadcasts, along any axes: the sum over what it was broadcast to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from jax_fa4.ops import blocks

FULL = (2, 3, 4, 12, 20)  # two batch axes, heads, T, S


def broadcast_shapes():
    """Every choice of axes of size 1, and of axes left out in front."""
    sizes = itertools.product(*((n, 1) for n in FULL))
    return [*sizes, *(FULL[n:] for n in range(1, 6)), (4, 1, 20), (12, 1), (1,)]


def test_every_broadcast(monkeypatch):
    """By several blocks: those of small biases against sums of that of the whole one."""
    monkeypatch.setattr(blocks, "_WIDEST", 8)
    monkeypatch.setattr(blocks, "_GRAIN", 4)
    jax.clear_caches()
    q, k, v, dout = (
        jax.random.normal(key, (2, 3, length, 4, 8))
        for key, length in zip(
            jax.random.split(jax.random.key(0), 4), (12, 20, 20, 12), strict=True
        )
    )
    shapes = broadcast_shapes()
    biases = [jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes)]

    def gradient(bias):
        def total(bias):
            out, lse = jax_fa4.dot_product_attention(
                q, k, v, bias, is_causal=True, causal_alignment="bottom_right", return_residual=True
            )
            return (out * dout).sum() + jnp.sin(lse).sum()

        return jax.grad(total)(bias)

    found = jax.jit(lambda biases: [gradient(b) for b in biases])(biases)
    whole = jax.jit(lambda biases: jax.lax.map(gradient, biases))(
        jnp.stack([jnp.broadcast_to(b, FULL) for b in biases])
    )
    for bias, ours, full in zip(biases, found, np.asarray(whole, np.float64), strict=True):
        shape = (1,) * (5 - bias.ndim) + bias.shape
        axes = tuple(i for i in range(5) if shape[i] == 1)
        wanted = full.sum(axes, keepdims=True).reshape(bias.shape)
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4, err_msg=str(bias.shape))
    jax.clear_caches()
