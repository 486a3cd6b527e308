"""Equinox: the projections of its layer, and one line of attention between them."""

import equinox as eqx
import jax

import jax_fa4


def causal_self_attention(layer: eqx.nn.MultiheadAttention, x: jax.Array) -> jax.Array:
    """What `layer(x, x, x, mask=causal)` computes for x (T, W), without a mask; vmap adds B."""
    projections = (layer.query_proj, layer.key_proj, layer.value_proj)
    query, key, value = (
        jax.vmap(project)(x).reshape(len(x), layer.num_heads, -1) for project in projections
    )
    attended = jax_fa4.dot_product_attention(query, key, value, is_causal=True)
    return jax.vmap(layer.output_proj)(attended.reshape(len(x), -1))
