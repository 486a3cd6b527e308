"""Argument checks of decoding's public functions; the refusals' words are in `errors`."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from jax_fa4.ops import checks
from jax_fa4.ops import errors as general
from jax_fa4.ops.decode import errors
from jax_fa4.ops.decode.plan import Operands, capacity
from jax_fa4.ops.manual_axes import shape_dtype

MAX_SPLITS = 1024


def operands(x: Operands) -> None:
    """Shapes and dtypes of the arrays of decode_attention."""
    # Pages are no axis of the batch: only what follows it has to fit.
    batch = x.q.shape[:1] if x.page_table is None else x.k.shape[:1]
    checks.qkv(("q", "k_cache", "v_cache"), _with_batch(x.q, batch), x.k, x.v)
    _lengths(x.lengths, "key_value_seq_lengths", x.q.shape[0])
    _pages(x.page_table, x.k, x.q.shape[0])
    if x.q.shape[1] > x.capacity:
        raise errors.too_many_queries("q", x.q.shape, x.capacity)
    if x.sinks is not None:
        if not jnp.issubdtype(x.sinks.dtype, jnp.floating):
            raise errors.not_float("learnable_sink", x.sinks.dtype)
        if x.sinks.shape != (x.q.shape[2],):
            expected = f"(heads of q,) = {(x.q.shape[2],)}"
            raise general.wrong_shape("learnable_sink", x.sinks.shape, expected)


def append(
    caches: tuple[jax.Array, jax.Array],
    new: tuple[jax.Array, jax.Array],
    lengths: jax.Array,
    new_lengths: jax.Array | None,
    page_table: jax.Array | None,
) -> None:
    """Shapes and dtypes of the arrays of append_to_cache."""
    batch = new[0].shape[:1] if page_table is None else caches[0].shape[:1]
    checks.qkv(("k", "k_cache", "v_cache"), _with_batch(new[0], batch), *caches)
    for name, x, cache in zip(("k", "v"), new, caches, strict=True):
        if x.shape[:2] != new[0].shape[:2] or x.shape[2:] != cache.shape[2:]:
            heads = f"heads and head dim of {name}_cache {cache.shape}"
            raise general.wrong_shape(name, x.shape, f"batch and length of k, {heads}")
        if x.dtype != cache.dtype:
            raise general.mixed_dtypes({name: x.dtype, f"{name}_cache": cache.dtype})
    _lengths(lengths, "key_value_seq_lengths", new[0].shape[0])
    if new_lengths is not None:
        _lengths(new_lengths, "query_seq_lengths", new[0].shape[0])
    _pages(page_table, caches[0], new[0].shape[0])
    if new[0].shape[1] > capacity(caches[0], page_table):
        raise errors.too_many_queries("k", new[0].shape, capacity(caches[0], page_table))


def softcap(value: Any) -> float:
    """A finite number, 0 for no cap."""
    if isinstance(value, jax.core.Tracer):
        raise errors.traced_softcap()
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise errors.bad_softcap(value) from None
    if not (math.isfinite(number) and number >= 0):
        raise errors.bad_softcap(value)
    return number


def num_splits(value: Any) -> int | None:
    """A whole number, None to choose one."""
    if value is None:
        return None
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= MAX_SPLITS:
        raise errors.bad_num_splits(value, MAX_SPLITS)
    return number


def _with_batch(x: jax.Array, batch: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return shape_dtype((*batch, *x.shape[1:]), x.dtype)


def _lengths(x: jax.Array, name: str, batch: int) -> None:
    _whole_numbers(x, name)
    if x.shape != (batch,):
        raise general.wrong_shape(name, x.shape, f"(batch,) = {(batch,)}")


def _pages(page_table: jax.Array | None, cache: jax.Array, batch: int) -> None:
    if page_table is None:
        return
    _whole_numbers(page_table, "page_table")
    if page_table.ndim != 2 or page_table.shape[0] != batch:
        expected = f"(batch, pages of a sequence) with batch {batch}"
        raise general.wrong_shape("page_table", page_table.shape, expected)
    if cache.shape[0] == 0 and page_table.shape[1] > 0:
        raise general.no_size("k_cache", "pages", cache.shape)


def _whole_numbers(x: jax.Array, name: str) -> None:
    if str(x.dtype) != "int32":
        raise errors.not_int32(name, x.dtype)
