"""`attention_fn` for Flax: one function for `flax.linen` and `flax.nnx` attention layers.

    nnx.MultiHeadAttention(..., attention_fn=jax_fa4.flax.attention_fn, dtype=jnp.bfloat16)
    layer(x, is_causal=True)

    nn.MultiHeadDotProductAttention(..., dtype=jnp.bfloat16,
        attention_fn=functools.partial(jax_fa4.flax.attention_fn, is_causal=True))

linen passes only the arguments that it finds by name in the signature, and nnx passes all
of its own, so every one is named here; those that would have to be dropped are refused.
What Flax has no argument for (segment ids, a soft cap, ...) is given by functools.partial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jax_fa4.ops.attention import dot_product_attention
from jax_fa4.ops.selection import Implementation


def attention_fn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Any = None,
    dropout_rate: float = 0.0,
    deterministic: bool = True,
    dtype: DTypeLike | None = None,
    precision: Any = None,
    module: Any = None,
    is_causal: bool = False,
    input_positions: Any = None,
    force_fp32_for_softmax: bool = False,
    qk_attn_weights_einsum: Any = None,
    attn_weights_value_einsum: Any = None,
    *,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    logits_soft_cap: float | None = None,
    sinks: ArrayLike | None = None,
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    implementation: Implementation = None,
    checkpoint_name: str | None = None,
) -> jax.Array:
    """`jax_fa4.dot_product_attention` under Flax's calling conventions.

    Args:
      query: (batch..., T, N, H). key: (batch..., S, N, H). value: (batch..., S, N, V).
      bias, mask: broadcastable to (batch..., N, T, S), on the portable path. A mask that is
        not boolean (Flax's `make_causal_mask` defaults to float32) attends where it is not 0.
      dropout_rate, dropout_rng, broadcast_dropout: unless deterministic, drop probabilities, the
        same ones in all batch elements and heads if broadcast_dropout; on the portable path.
        Which ones fall differs from Flax's for the same key.
      dtype: query, key and value are cast to it, as Flax's own function does.
      is_causal: nnx passes the argument of the layer's call; in linen use functools.partial.
        One query with a mask and more keys is a step of decode=True: its mask alone counts.
      force_fp32_for_softmax: softmax is float32 in any case.
      local_window_size and all others: as in `dot_product_attention`, for functools.partial.

    Returns:
      (batch..., T, N, V). Rows that attend nothing are 0 (Flax: the mean of value).

    Raises:
      NotImplementedError: sow_weights, an einsum override, precision or input_positions was
        asked for, which this function would have to ignore; or local_window_size in decoding.
    """
    _refuse_dropped(
        module=module,
        precision=precision,
        input_positions=input_positions,
        qk_attn_weights_einsum=qk_attn_weights_einsum,
        attn_weights_value_einsum=attn_weights_value_einsum,
    )
    if dtype is not None:
        query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    if mask is not None and jnp.asarray(mask).dtype != jnp.bool:
        mask = jnp.asarray(mask) != 0
    if mask is not None and query.shape[-3] == 1 < key.shape[-3]:
        # A token and its cache: at which position, only the mask says.
        if local_window_size is not None:
            raise NotImplementedError(
                f"jax_fa4.flax.attention_fn does not support local_window_size={local_window_size} "
                "for one query of a cache, whose position it does not know; pass the layer a mask "
                "of the window"
            )
        is_causal = False
    return dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        is_causal=is_causal,
        local_window_size=local_window_size,
        query_segment_ids=query_segment_ids,
        key_value_segment_ids=key_value_segment_ids,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        logits_soft_cap=logits_soft_cap,
        sinks=sinks,
        score_mod=score_mod,
        mask_mod=mask_mod,
        dropout_rate=0.0 if deterministic else dropout_rate,
        dropout_rng=dropout_rng,
        broadcast_dropout=broadcast_dropout,
        implementation=implementation,
        checkpoint_name=checkpoint_name,
    )


_EINSUM = "leave the layer's einsum class unset"
_REMEDIES = {
    "module": "the weights are never formed: call the layer with sow_weights=False",
    "precision": "leave it None on the layer; jax.default_matmul_precision sets it for float32",
    "input_positions": "rotate query and key in a function that calls this one without it",
    "qk_attn_weights_einsum": _EINSUM,
    "attn_weights_value_einsum": _EINSUM,
}


def _refuse_dropped(**asked: Any) -> None:
    for name, value in asked.items():
        if value is not None:
            shown = value if isinstance(value, (int, float, str)) else type(value).__name__
            raise NotImplementedError(
                f"jax_fa4.flax.attention_fn does not support {name}={shown}; {_REMEDIES[name]}, "
                "or use Flax's own attention_fn"
            )
