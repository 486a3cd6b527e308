"""In place of `jax.nn.dot_product_attention`: the import is the only edit.

Names, defaults and meaning are jax.nn's; where they differ (rows that attend nothing, the dtype of
the log-sum-exp) the docstring says so.
"""

import jax

from jax_fa4 import dot_product_attention  # was: from jax.nn import dot_product_attention


def causal_self_attention(x: jax.Array, projections: jax.Array, heads: int) -> jax.Array:
    """Attention of x (B, T, W) with projections (3, W, W) to query, key and value."""
    query, key, value = ((x @ weights).reshape(*x.shape[:2], heads, -1) for weights in projections)
    return dot_product_attention(query, key, value, is_causal=True).reshape(x.shape)
