"""A small causal GPT over bytes, in Flax nnx; its attention function is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jax_fa4.demo.text import VOCABULARY

# As `nnx.MultiHeadAttention` calls it: (query, key, value, *, is_causal=..., ...) -> out.
AttentionFn = Callable[..., jax.Array]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the model; activations are of `dtype`, parameters float32."""

    width: int
    layers: int
    heads: int
    context: int
    dtype: str

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, attention_fn: AttentionFn, *, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.attention_norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            config.heads,
            width,
            dtype=dtype,
            use_bias=False,
            attention_fn=rotary(attention_fn),
            decode=False,
            rngs=rngs,
        )
        self.mlp_norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), is_causal=True)
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


class GPT(nnx.Module):
    """Tokens (B, S) to float32 logits (B, S, VOCABULARY); embedding and output are tied."""

    def __init__(self, config: ModelConfig, attention_fn: AttentionFn, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(
            VOCABULARY,
            config.width,
            dtype=jnp.dtype(config.dtype),
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [Block(config, attention_fn, rngs=rngs) for _ in range(config.layers)]
        )
        self.norm = nnx.RMSNorm(config.width, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x)).astype(jnp.float32)


def rotary(attention_fn: AttentionFn) -> AttentionFn:
    """`attention_fn` with rotary positions (Su et al., 2021) applied to queries and keys."""

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, **kwargs: object) -> jax.Array:
        return attention_fn(_rotate(query), _rotate(key), value, **kwargs)

    return attend


def _rotate(x: jax.Array) -> jax.Array:
    """Turn each pair of features (i, i + D/2) of x (B, S, H, D) by position * 10000^(-2i/D)."""
    length, head_dim = x.shape[-3], x.shape[-1]
    frequency = 10_000.0 ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = jnp.outer(jnp.arange(length, dtype=jnp.float32), frequency)[None, :, None, :]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
