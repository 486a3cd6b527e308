"""Flax: attention is an argument of the layer, in nnx and in linen."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx

from jax_fa4.flax import attention_fn


def nnx_layer(width: int, heads: int, rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
    """Causal where it is called so: layer(x, is_causal=True). Kernels take 16 bits, hence dtype."""
    return nnx.MultiHeadAttention(
        heads, width, dtype=jnp.bfloat16, decode=False, rngs=rngs, attention_fn=attention_fn
    )


def linen_layer(width: int, heads: int) -> nn.MultiHeadDotProductAttention:
    """Causal by `partial`: linen layers have no argument for it, and a mask would be dense."""
    causal = functools.partial(attention_fn, is_causal=True)
    return nn.MultiHeadDotProductAttention(
        heads, qkv_features=width, dtype=jnp.bfloat16, attention_fn=causal
    )
