"""Keras 3 on its JAX back end: the layer's documented place for another attention.

Run with KERAS_BACKEND=jax. The layer is called as Keras's own, `layer(x, x, use_causal_mask=True)`.
"""

from typing import Any

import keras

import jax_fa4


class MultiHeadAttention(keras.layers.MultiHeadAttention):
    """Keras's layer with jax_fa4's attention. Scores are not returned, weights not dropped."""

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, None]:
        if return_attention_scores or (self._dropout and training):
            raise NotImplementedError("no scores and no dropout: use keras.layers' own layer")
        mask = None if attention_mask is None else attention_mask[:, None].astype(bool)
        attended = jax_fa4.dot_product_attention(
            query, key, value, mask=mask, is_causal=use_causal_mask
        )
        return attended, None
