"""A learnable sink: a logit for each query head that takes its share of the softmax, and no value.

    out' = sum_j exp(S_j) v_j / (sum_j exp(S_j) + exp(sink)) = out sigmoid(lse - sink)
    lse' = log(sum_j exp(S_j) + exp(sink)) = logaddexp(lse, sink)

Both are functions of out and lse, whose gradients are exact on every path: so are those through
them, and that of the sink, and no kernel needs to know.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def include(out: jax.Array, lse: jax.Array, sinks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) and lse (B, Hq, Sq) with sinks (Hq,), finite or -inf (none).

    A row that sees no key has out 0 and lse = sink.
    """
    sink = sinks.astype(lse.dtype)[None, :, None]
    seen = ~jnp.isneginf(lse)
    # -inf - -inf has no derivative: rows without keys take 0 in its place.
    excess = jnp.where(seen, sink - jnp.where(seen, lse, 0), 0)
    # Not jax.nn.sigmoid, whose derivative s (1 - s) is 0 for a sink of little weight.
    share = jnp.exp(jax.nn.log_sigmoid(-excess)).swapaxes(1, 2)[..., None]
    total = jnp.where(seen, lse + jax.nn.softplus(excess), sink)
    return (out * share).astype(out.dtype), total
