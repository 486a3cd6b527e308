"""vmap by folding: the mapped axes join the batch axis, so that a kernel sees one larger batch.

Mapped axes stay in front as axes of their own, capitals among the letters of `layout`, down to
the device that folds its part of them: a reshape of axes that are spread over devices would move
data between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jax_fa4.ops.band import Band
from jax_fa4.ops.layout import Arrays, Compute, sizes


def fold_vmap(
    function: Callable[..., Arrays], dims: Sequence[str], results: Sequence[str]
) -> Callable[..., Arrays]:
    """`function(dims, results, *operands)` on operands of these letters, made vmappable.

    Under vmap it gets operands with mapped axes in front and the letters to match; every result
    has all mapped axes. Operands that are not mapped stay as they are. Where an array without a
    batch axis is mapped there is nothing to fold, and the calls are made one after the other.
    """

    @custom_vmap
    def call(*operands: jax.Array) -> Arrays:
        return function(dims, results, *operands)

    @call.def_vmap
    def rule(axis_size: int, in_batched: list[bool], *operands: jax.Array) -> tuple[Any, Any]:
        letter = next(x for x in ascii_uppercase if x not in results[0])
        mapped = [letter + d if b else d for d, b in zip(dims, in_batched, strict=True)]
        if any("b" not in d for d in (*results, *(d for d in mapped if letter in d))):
            found = _one_by_one(call, in_batched, operands)
        else:
            found = fold_vmap(function, mapped, [letter + d for d in results])(*operands)
        return found, tuple(True for _ in found)

    result: Callable[..., Arrays] = call
    return result


@custom_vmap
def mapped_alike(*results: jax.Array) -> Arrays:
    """The results; under vmap all of them are mapped.

    lse does not depend on v. Unmapped beside an out that is, it would get a cotangent that is the
    sum of all maps' in the gradient of each.
    """
    return results


@mapped_alike.def_vmap
def _map_alike(size: int, mapped: list[bool], *results: jax.Array) -> tuple[Any, Any]:
    found = [
        x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
        for x, is_mapped in zip(results, mapped, strict=True)
    ]
    return mapped_alike(*found), tuple(True for _ in found)


def _one_by_one(
    call: Callable[..., Arrays], mapped: Sequence[bool], operands: Sequence[jax.Array]
) -> Arrays:
    def step(parts: list[jax.Array]) -> Arrays:
        own = iter(parts)
        return call(*(next(own) if m else x for x, m in zip(operands, mapped, strict=True)))

    found: Arrays = jax.lax.map(step, [x for x, m in zip(operands, mapped, strict=True) if m])
    return found


def folded(compute: Compute, dims: Sequence[str], results: Sequence[str]) -> Compute:
    """`compute(band, *operands)` of operands without mapped axes, for operands with them.

    (V, B, ...) becomes (V * B, ...), and results the other way round; operands that are not
    mapped are broadcast.
    """
    levels = results[0][: results[0].index("b")]
    if not levels:
        return compute

    def run(band: Band, *operands: jax.Array) -> Arrays:
        size = sizes(operands, dims)
        leading = tuple(size[letter] for letter in levels)
        count = math.prod(leading)

        def fold(x: jax.Array, own: str) -> jax.Array:
            if "b" not in own:
                return x
            missing = tuple(i for i, letter in enumerate(levels) if letter not in own)
            x = jnp.expand_dims(x, missing)
            x = jnp.broadcast_to(x, (*leading, *x.shape[len(levels) :]))
            return x.reshape(count * size["b"], *x.shape[len(levels) + 1 :])

        found = compute(band, *map(fold, operands, dims))
        return tuple(x.reshape(*leading, size["b"], *x.shape[1:]) for x in found)

    return run
