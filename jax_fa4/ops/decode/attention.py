"""The call for decoding: a few new queries against a long cache of keys and values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_fa4.ops import checks as general
from jax_fa4.ops import manual_axes, partition
from jax_fa4.ops.band import Band, Window
from jax_fa4.ops.decode import checks, errors, kernel_call, portable
from jax_fa4.ops.decode.batching import fold_vmap
from jax_fa4.ops.decode.plan import DecodePlan, Operands
from jax_fa4.ops.decode.selection import select
from jax_fa4.ops.selection import Implementation

# Letters of out and lse, for `ops.layout`; those of the operands are `Operands.dims`.
_RESULTS = ("bqhe", "bhq")


@overload
def decode_attention(
    q: ArrayLike,
    k_cache: ArrayLike,
    v_cache: ArrayLike,
    *,
    key_value_seq_lengths: ArrayLike,
    page_table: ArrayLike | None = ...,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = ...,
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    return_lse: Literal[False] = ...,
    num_splits: int | None = ...,
    implementation: Implementation = ...,
) -> jax.Array: ...


@overload
def decode_attention(
    q: ArrayLike,
    k_cache: ArrayLike,
    v_cache: ArrayLike,
    *,
    key_value_seq_lengths: ArrayLike,
    page_table: ArrayLike | None = ...,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    window_size: Window = ...,
    softcap: float = ...,
    learnable_sink: ArrayLike | None = ...,
    return_lse: Literal[True],
    num_splits: int | None = ...,
    implementation: Implementation = ...,
) -> tuple[jax.Array, jax.Array]: ...


def decode_attention(
    q: ArrayLike,
    k_cache: ArrayLike,
    v_cache: ArrayLike,
    *,
    key_value_seq_lengths: ArrayLike,
    page_table: ArrayLike | None = None,
    softmax_scale: float | None = None,
    causal: bool = True,
    window_size: Window = (None, None),
    softcap: float = 0.0,
    learnable_sink: ArrayLike | None = None,
    return_lse: bool = False,
    num_splits: int | None = None,
    implementation: Implementation = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(softmax_scale * Q K^T, over attended keys) V of a sequence's last Sq tokens.

    Append the new tokens' keys and values first (`append_to_cache`). Query i of sequence b is
    then at position p = key_value_seq_lengths[b] - Sq + i, and the cache holds positions
    0 .. key_value_seq_lengths[b] - 1; what lies behind them is never looked at, NaN or not.

    Args:
      q: (B, Sq, Hq, D), Sq from 1 up; bfloat16 or float16 for the kernels, float32 too for the
        portable path.
      k_cache: (B, S, Hkv, D), dtype of q, Hq a multiple of Hkv (query head h uses key head
        h // (Hq // Hkv)); with page_table, pages (P, page_size, Hkv, D) of all sequences.
      v_cache: the same with a head dim Dv of its own.
      key_value_seq_lengths: (B,) int32, keys of each sequence with the new ones; may be traced.
        Values below 0 or above the capacity (S, or page_size * n) count as those. A sequence may
        be empty; queries before its first token (length < Sq) attend nothing.
      page_table: (B, n) int32, may be traced: position j of sequence b is row j % page_size of
        page page_table[b, j // page_size]. Ids are read where keys are attended, and one outside
        0 .. P - 1 means the nearest page: memory outside the cache is never read.
      softmax_scale: number known at trace time; 1/sqrt(D) by default.
      causal: query i attends positions up to its own; False: the later new tokens, too.
      window_size: (left, right), attend positions p - left .. p + right only; None leaves a side
        open.
      softcap: c > 0 makes a score s into c * tanh(s / c); 0 for none.
      learnable_sink: (Hq,) logits, one more key for each head, whose value is 0.
      return_lse: return (out, lse) instead.
      num_splits: into how many parts, at most, kernels cut the keys of a sequence, to be merged
        by a second kernel: 1 to 1024; by default the shapes decide. The portable path has no
        parts.
      implementation: as in `flash_attention`.

    Returns:
      out (B, Sq, Hq, Dv) in q's dtype; with return_lse also lse (B, Hq, Sq) float32, the natural
      log-sum-exp of each row's scores and sink. A row that attends no key has out 0 and lse -inf
      (its sink's logit, where there are sinks). There is no gradient.

    Raises:
      ValueError: arguments that are wrong; NotImplementedError: right, but not supported.
      Both at trace time, with the argument, its value and the way out.

    Method: Flash-Decoding (Dao, Haziza, Massa and Sizov 2023) and PagedAttention (Kwon et al.,
    arXiv:2309.06180).
    """
    x = Operands(
        *map(jnp.asarray, (q, k_cache, v_cache, key_value_seq_lengths)),
        *(None if a is None else jnp.asarray(a) for a in (page_table, learnable_sink)),
    )
    checks.operands(x)
    scale = general.scale("softmax_scale", softmax_scale, x.q.shape[3])
    plan = DecodePlan(
        softmax_scale=scale,
        band=Band.make(
            0, 0, causal=bool(causal), window=general.window("window_size", window_size)
        ),
        softcap=checks.softcap(softcap),
        num_splits=checks.num_splits(num_splits),
        path=select(x, scale, implementation),
    )
    # In shard_map an operand may vary over fewer axes than another.
    given = [a for a in x if a is not None]
    axes = frozenset[Any]().union(*map(manual_axes.varying_axes, given))
    out, lse = _attention(plan, *(None if a is None else manual_axes.vary(a, axes) for a in x))
    return (out, lse) if return_lse else out


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _attention(plan: DecodePlan, *operands: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    def compute(*operands: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        x = Operands(*operands)  # type: ignore[arg-type]
        present = [a is not None for a in x]

        def on_device(forward: Callable[..., Any]) -> Callable[..., Any]:
            def run(band: Band, *arrays: jax.Array) -> Any:
                rest = iter(arrays)
                own = (next(rest) if there else None for there in present)
                return forward(replace(plan, band=band), *own)

            return run

        arrays = [a for a in x if a is not None]
        empty = any(0 in a.shape for a in arrays)
        function = partition.Function(
            portable=on_device(portable.forward),
            kernel=on_device(kernel_call.forward) if plan.path.kernels and not empty else None,
            emulated=plan.path.emulator is not None,
            name=plan,
        )
        out, lse = partition.run(function, plan.band, arrays, x.dims, _RESULTS)
        return out, lse

    return fold_vmap(compute, Operands(*operands))  # type: ignore[arg-type]


@_attention.defjvp
def _no_gradient(plan: DecodePlan, primals: Any, tangents: Any) -> Any:
    raise errors.no_gradient()
