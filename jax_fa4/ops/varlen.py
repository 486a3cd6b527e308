"""The call for documents of any lengths packed one after the other, with FlashAttention's names."""

from __future__ import annotations

from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_fa4.ops import checks, errors
from jax_fa4.ops.band import FULL, Window
from jax_fa4.ops.core import Plan, attention, checkpoint_names
from jax_fa4.ops.key_bounds import Documents, KeyBounds
from jax_fa4.ops.selection import Implementation, select
from jax_fa4.variants.problem import Problem


@overload
def flash_attention_varlen(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = ...,
    *,
    max_seqlen_q: int | None = ...,
    max_seqlen_k: int | None = ...,
    seqused_q: ArrayLike | None = ...,
    seqused_k: ArrayLike | None = ...,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = (None, None),
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[False] = ...,
    implementation: Implementation = ...,
    checkpoint_name: str | None = ...,
) -> jax.Array: ...


@overload
def flash_attention_varlen(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = ...,
    *,
    max_seqlen_q: int | None = ...,
    max_seqlen_k: int | None = ...,
    seqused_q: ArrayLike | None = ...,
    seqused_k: ArrayLike | None = ...,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = (None, None),
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[True],
    implementation: Implementation = ...,
    checkpoint_name: str | None = ...,
) -> tuple[jax.Array, jax.Array]: ...


def flash_attention_varlen(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = None,
    *,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    seqused_q: ArrayLike | None = None,
    seqused_k: ArrayLike | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (None, None),
    softcap: float = 0.0,
    learnable_sink: ArrayLike | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
    implementation: Implementation = None,
    checkpoint_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`flash_attention` within each of N documents that lie one after the other in one array.

    Args:
      q: (total_q, Hq, D); bfloat16 or float16 for the kernels, float32 too for the portable path.
      k: (total_k, Hkv, D), Hq a multiple of Hkv, dtype of q. v: (total_k, Hkv, Dv).
      cu_seqlens_q: integers (N + 1,), may be traced, never falling: document n has the queries
        cu_seqlens_q[n] .. cu_seqlens_q[n + 1] - 1, none where the two are equal. Rows outside
        of all documents attend nothing.
      cu_seqlens_k: the same of keys; those of queries where left out.
      max_seqlen_q, max_seqlen_k: taken for FlashAttention's callers, and not needed: blocks are
        found from cu_seqlens.
      seqused_q, seqused_k: integers (N,), may be traced: of each document only the first so many
        queries attend, and only so many keys are attended; at most its length.
      softmax_scale, softcap, learnable_sink, deterministic, return_lse, implementation,
        checkpoint_name: as in `flash_attention`.
      causal, window_size: as in `flash_attention`, within each document, whose last (used) query
        is aligned with its last (used) key.

    Returns:
      out (total_q, Hq, Dv) in q's dtype; with return_lse also lse (Hq, total_q) float32. Both are
      differentiable. A row that attends no key has out 0 and lse -inf, and gradients of zero.

    Raises:
      ValueError: arguments that are wrong; NotImplementedError: right, but not supported.
      Both at trace time, with the argument, its value and the way out.

    Blocks that hold keys of other documents only are skipped: the cost is that of the documents.
    """
    arrays = {"q": jnp.asarray(q), "k": jnp.asarray(k), "v": jnp.asarray(v)}
    for name, x in arrays.items():
        if x.ndim != 3:
            raise errors.wrong_rank(name, x.shape, "(total length, heads, head_dim)")
    q, k, v = (x[None] for x in arrays.values())
    checks.qkv(("q", "k", "v"), q, k, v)
    sizes = (q.shape[1], k.shape[1])
    for name, value in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        checks.max_seqlen(name, value)
    if cu_seqlens_k is None and sizes[0] != sizes[1]:
        raise errors.lone_cu_seqlens(sizes)
    queries = _documents("q", cu_seqlens_q, seqused_q, sizes[0])
    keys = _documents(
        "k", cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k, seqused_k, sizes[1]
    )
    if keys.lengths.shape != queries.lengths.shape:
        expected = f"that of cu_seqlens_q {queries.starts.shape}"
        raise errors.wrong_shape("cu_seqlens_k", keys.starts.shape, expected)
    number = checks.scale("softmax_scale", softmax_scale, q.shape[3])
    cap = checks.softcap("softcap", softcap)
    window = checks.window("window_size", window_size)
    if learnable_sink is not None:
        checks.sinks("learnable_sink", learnable_sink := jnp.asarray(learnable_sink), q.shape[2])
    problem = Problem(
        dtype=str(q.dtype),
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        softmax_scale=number,
        deterministic=bool(deterministic),
        has_bounds=True,
        has_softcap=cap != 0,
    )
    path = select(problem, implementation)
    plan = Plan(number, FULL, path, checkpoint_names(checkpoint_name), cap)
    bounds = KeyBounds.of_documents(queries, keys, sizes, causal=bool(causal), window=window)
    out, lse = attention(plan, q, k, v, bounds=bounds, sinks=learnable_sink)
    return (out[0], lse[0]) if return_lse else out[0]


def _documents(side: str, cu_seqlens: ArrayLike, used: ArrayLike | None, total: int) -> Documents:
    """Checked arguments cu_seqlens_q or _k and seqused_q or _k; no document leaves the array."""
    starts = jnp.asarray(cu_seqlens)
    checks.cu_seqlens(f"cu_seqlens_{side}", starts)
    starts = jnp.clip(starts, 0, total).astype(jnp.int32)
    lengths = jnp.maximum(starts[1:] - starts[:-1], 0)
    if used is not None:
        array = jnp.asarray(used)
        checks.seq_lengths(f"seqused_{side}", array, lengths.shape)
        lengths = jnp.clip(array, 0, lengths).astype(jnp.int32)
    return Documents(starts, lengths)
