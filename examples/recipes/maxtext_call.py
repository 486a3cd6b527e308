"""MaxText: the method behind `attention="cudnn_flash_jax"`, which calls cuDNN through jax.

Assign it over the method of MaxText's attention operator:

    attention_op.AttentionOp.cudnn_jax_flash_attention = cudnn_jax_flash_attention

The method there leaves segment ids out (maxtext#4476: packed documents attend one another); this
one keeps them. Queries come scaled already. MaxText's remat policies save the name "context".
"""

from typing import Any

import jax

import jax_fa4


def cudnn_jax_flash_attention(
    self: Any,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    decoder_segment_ids: jax.Array | None,
    model_mode: str = "train",
) -> tuple[jax.Array, jax.Array]:
    """out (B, T, N, H) and its log-sum-exp of query (B, T, N, H) and key, value (B, S, K, H)."""
    if model_mode == "autoregressive" or self.dropout_rate:
        raise NotImplementedError("training and prefill without dropout: set attention=dot_product")
    out, lse = jax_fa4.dot_product_attention(
        query,
        key,
        value,
        scale=1.0,
        is_causal=True,
        query_segment_ids=decoder_segment_ids,
        key_value_segment_ids=decoder_segment_ids,
        return_residual=True,
        checkpoint_name="context",
    )
    return out, lse.transpose(0, 2, 1)
