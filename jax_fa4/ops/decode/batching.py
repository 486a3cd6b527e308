"""vmap of decoding: mapped axes join the batch, and a cache that is not mapped is not copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jax_fa4.ops.decode.plan import Operands

_Results = tuple[jax.Array, jax.Array]


def fold_vmap(function: Callable[..., _Results], operands: Operands) -> _Results:
    """`function(*operands)`, out and lse with the batch in front, made vmappable.

    A contiguous cache becomes pages, one a sequence, of which a table says whose they are: so
    sequences of several mapped elements share it. Nested vmaps fold one by one.
    """
    present = [a is not None for a in operands]

    def filled(arrays: tuple[jax.Array, ...]) -> Operands:
        rest = iter(arrays)
        return Operands(*(next(rest) if there else None for there in present))  # type: ignore[arg-type]

    @custom_vmap
    def folded(*arrays: jax.Array) -> _Results:
        return function(*filled(arrays))

    @folded.def_vmap
    def rule(axis_size: int, in_batched: list[bool], *arrays: jax.Array) -> tuple[Any, Any]:
        x = filled(arrays)
        mapped = Operands(*_filled_flags(present, in_batched))
        if mapped.sinks:
            # One logit for each head is all that a call takes.
            results = _one_by_one(function, axis_size, x, mapped)
        else:
            results = fold_vmap(function, _fold(axis_size, x, mapped))
            results = jax.tree.map(lambda a: a.reshape(axis_size, -1, *a.shape[1:]), results)
        return results, (True, True)

    out, lse = folded(*(a for a in operands if a is not None))
    return out, lse


def _filled_flags(present: list[bool], in_batched: list[bool]) -> list[Any]:
    rest = iter(in_batched)
    return [next(rest) if there else False for there in present]


def _fold(axis_size: int, x: Operands, mapped: Operands) -> Operands:
    """One larger batch: the mapped axis is its major part."""
    table = x.page_table
    if table is None:  # the pages are the sequences
        table = jnp.arange(x.k.shape[1 if mapped.k else 0], dtype=jnp.int32)[:, None]
    k, v = x.k, x.v
    table = _broadcast(axis_size, table, bool(mapped.page_table))
    if mapped.k or mapped.v:
        k, v = (_broadcast(axis_size, a, bool(m)) for a, m in ((k, mapped.k), (v, mapped.v)))
        # Ids are clamped before they are moved to their own pool.
        pages = k.shape[1]
        first = jnp.arange(axis_size, dtype=jnp.int32)[:, None, None] * pages
        table = jnp.clip(table, 0, pages - 1) + first
        k, v = _merge(k), _merge(v)
    return Operands(
        _merge(_broadcast(axis_size, x.q, bool(mapped.q))),
        k,
        v,
        _merge(_broadcast(axis_size, x.lengths, bool(mapped.lengths))),
        _merge(table),
        x.sinks,
    )


def _one_by_one(
    function: Callable[..., _Results], axis_size: int, x: Operands, mapped: Operands
) -> _Results:
    def one(i: jax.Array) -> _Results:
        return function(
            *(a[i] if a is not None and m else a for a, m in zip(x, mapped, strict=True))
        )

    results: _Results = jax.lax.map(one, jnp.arange(axis_size))
    return results


def _broadcast(axis_size: int, x: jax.Array, mapped: bool) -> jax.Array:
    return x if mapped else jnp.broadcast_to(x[None], (axis_size, *x.shape))


def _merge(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
