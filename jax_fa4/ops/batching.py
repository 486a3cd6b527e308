"""vmap by folding: the mapped axis joins the batch axis, so that a kernel sees one larger batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def fold_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose every argument and result has the batch axis in front, made vmappable.

    The mapped axis becomes the major part of the batch axis and is split off again from the
    results: (V, B, ...) -> (V * B, ...) -> (V, B, ...), the same order for arguments and
    results. Arguments that are not mapped are broadcast. Nested vmaps fold one by one.
    """

    @custom_vmap
    def folded(*args: jax.Array) -> Any:
        return function(*args)

    @folded.def_vmap
    def rule(axis_size: int, in_batched: list[bool], *args: jax.Array) -> tuple[Any, Any]:
        def fold(x: jax.Array, batched: bool) -> jax.Array:
            if not batched:
                x = jnp.broadcast_to(x[None], (axis_size, *x.shape))
            return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

        def unfold(x: jax.Array) -> jax.Array:
            return x.reshape(axis_size, x.shape[0] // axis_size, *x.shape[1:])

        result = folded(*(fold(x, b) for x, b in zip(args, in_batched, strict=True)))
        return jax.tree.map(unfold, result), jax.tree.map(lambda _: True, result)

    result: Callable[..., Any] = folded
    return result
