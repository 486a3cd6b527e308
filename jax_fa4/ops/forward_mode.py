"""The portable path's forward derivatives: tangents of out and lse along those of the arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax

from jax_fa4.ops import partition, portable
from jax_fa4.ops.band import Band

if TYPE_CHECKING:
    from jax_fa4.ops.core import Plan


@dataclass(frozen=True)
class Directions:
    """Which arrays of a call (q, k, v, operands), flattened, have tangents."""

    plan: Plan
    structure: Any
    moving: tuple[int, ...]
    dims: tuple[str, ...]  # letters of all arrays
    results: tuple[str, ...]  # and of out and lse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def tangents(
    own: Directions, arrays: Sequence[jax.Array], directions: Sequence[jax.Array]
) -> Sequence[jax.Array]:
    """Tangents of out and lse."""
    count = len(arrays)

    def compute(band: Band, *args: jax.Array) -> Any:
        return _tangents(own, args[:count], args[count:], band)

    operands = (*arrays, *directions)
    dims = (*own.dims, *(own.dims[i] for i in own.moving))
    band = own.plan.band
    if own.plan.mods:
        whole = functools.partial(compute, band)
        return partition.run_whole(whole, operands, dims, own.results)
    function = partition.Function(compute, None, emulated=False, name=own.plan)
    return partition.run(function, band, operands, dims, own.results)


def _tangents(
    own: Directions,
    arrays: Sequence[jax.Array],
    directions: Sequence[jax.Array],
    band: Band | None = None,
) -> Any:
    def run(*moving: jax.Array) -> Any:
        moved = dict(zip(own.moving, moving, strict=True))
        primals = [moved.get(i, x) for i, x in enumerate(arrays)]
        q, k, v, operands = jax.tree.unflatten(own.structure, primals)
        return portable.forward(q, k, v, own.plan.scoring(band), operands)

    return jax.jvp(run, [arrays[i] for i in own.moving], list(directions))[1]


@tangents.defjvp
def _tangents_jvp(own: Directions, primals: Any, directions: Any) -> Any:
    # Without fold_vmap, of which jax.vmap takes care here.
    return jax.jvp(functools.partial(_tangents, own), primals, directions)
