"""One call on arrays that may be spread over several devices, in every way that JAX has.

    fold_vmap(explicit_map(platform_dependent(cuda=partitioned(kernel), default=portable)))

- Under jit the compiler knows shardings and the traced program does not: `partitioned` gives the
  compiler a rule for the kernel's custom call. Portable code it shards by itself.
- With explicit mesh axes shardings are part of the types: the call is mapped by a shard_map.
- In the caller's own jax.shard_map a call sees a device's arrays, and neither does anything.
Both do what `layout` says, whatever shardings they are given.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding

from jax_fa4.ops.automatic_axes import partitioned
from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.batching import fold_vmap, folded, mapped_alike
from jax_fa4.ops.layout import Arrays, Axes, Compute, Layout, sizes


@dataclass(frozen=True)
class Function:
    """How a call computes: both take (band, *operands), whole arrays or a device's parts.

    `name` says by its repr everything of the call that is not in the types of its operands.
    """

    portable: Compute
    kernel: Compute | None
    emulated: bool
    name: Hashable


def run(
    function: Function,
    band: Band,
    operands: Sequence[jax.Array],
    dims: Sequence[str],
    results: Sequence[str],
) -> Arrays:
    """The function's results, of the letters `results` (see `layout`)."""

    def mapped(dims: Sequence[str], results: Sequence[str], *operands: jax.Array) -> Arrays:
        def compute(band: Band, *operands: jax.Array) -> Arrays:
            return _on_platform(function, band, operands, dims, results)

        return _typed(compute, band, operands, dims, results)

    if function.kernel is None and not all("b" in own for own in dims):

        def compute(band: Band, *operands: jax.Array) -> Arrays:
            found: Arrays = mapped_alike(*function.portable(band, *operands))
            return found

        return _typed(compute, band, operands, dims, results)
    return fold_vmap(mapped, dims, results)(*operands)


def _typed(
    compute: Compute,
    band: Band,
    operands: Sequence[jax.Array],
    dims: Sequence[str],
    results: Sequence[str],
) -> Arrays:
    """The results of `compute`, mapped over the explicit axes in the operands' types."""
    mesh = _explicit_mesh(operands)
    if mesh is None:
        return compute(band, *operands)
    layout = _typed_layout(mesh, operands, dims)
    # Zeros for an unused result's cotangent may come without its sharding.
    settled = _reshard(layout, mesh, operands, dims)
    if not layout.used():
        return compute(band, *settled)
    return _explicit_map(layout, mesh, compute, band, dims, results)(*settled)


def run_whole(
    compute: Callable[..., Arrays],
    operands: Sequence[jax.Array],
    dims: Sequence[str],
    results: Sequence[str],
) -> Arrays:
    """`compute(*operands)`, spread by the compiler alone: of what knows its place in the arrays."""

    def mapped(*operands: jax.Array) -> Arrays:
        found: Arrays = mapped_alike(*compute(*operands))
        return found

    mesh = _explicit_mesh(operands)
    if mesh is None:
        return mapped(*operands)
    layout = _typed_layout(mesh, operands, dims)
    found: Arrays = jax.sharding.auto_axes(
        mapped,
        axes=_axes(mesh, AxisType.Explicit),
        out_sharding=tuple(NamedSharding(mesh, layout.spec(own)) for own in results),
    )(*_reshard(layout, mesh, operands, dims))
    return found


def by_batch(compute: Callable[..., Arrays], operands: Sequence[jax.Array], count: int) -> Arrays:
    """`count` arrays (B, N) of operands (B, ...) whose elements are independent: integers of rows.

    Where explicit shardings are part of types, each device computes its own: sorting and gathering
    within an element is refused there, and a fold of axes by jax.vmap.
    """

    def levels(dims: Sequence[str], results: Sequence[str], *operands: jax.Array) -> Arrays:
        own = folded(lambda _, *x: compute(*x), dims, results)
        return _typed(own, FULL, operands, dims, results)

    dims = ["b" + "." * (x.ndim - 1) for x in operands]
    return fold_vmap(levels, dims, ("b.",) * count)(*operands)


def settle(operands: Sequence[jax.Array], dims: Sequence[str]) -> Sequence[jax.Array]:
    """The operands with the shardings that `run` needs, where those are part of their types.

    Done outside of what is differentiated by hand, so that gradients get the operands' own.
    """
    mesh = _explicit_mesh(operands)
    if mesh is None:
        return operands
    return _reshard(_typed_layout(mesh, operands, dims), mesh, operands, dims)


def _on_platform(
    function: Function,
    band: Band,
    operands: Sequence[jax.Array],
    dims: Sequence[str],
    results: Sequence[str],
) -> Arrays:
    portable = folded(function.portable, dims, results)
    if function.kernel is None:
        return portable(band, *operands)
    kernel = folded(function.kernel, dims, results)
    if _has_typed_mesh(operands):
        _warn_of_automatic_axes(_left(operands))
        kernel = functools.partial(kernel, band)
    else:
        kernel = partitioned(kernel, band, dims, results, function.name)
    if function.emulated:
        return kernel(*operands)
    chosen: Arrays = lax.platform_dependent(
        *operands, cuda=kernel, default=lambda *x: portable(band, *x)
    )
    return chosen


def _has_typed_mesh(operands: Sequence[jax.Array]) -> bool:
    """Whether the compiler is no longer told of the whole mesh.

    A shard_map around the call leaves some of its axes out, or an axis is explicit and mapped away
    by jax.vmap. A partitioned call is for a mesh that is automatic in all axes.
    """
    kinds = [set(jax.typeof(x).sharding.mesh.axis_types or ()) for x in operands]
    return any(AxisType.Explicit in own or {AxisType.Manual} < own for own in kinds)


def _left(operands: Sequence[jax.Array]) -> Axes:
    """Axes of the mesh that the compiler may have spread operands over, unknown to their types."""
    meshes = [jax.typeof(x).sharding.mesh for x in operands]
    return tuple(
        dict.fromkeys(a for m in meshes for a in _axes(m, AxisType.Auto) if m.shape[a] > 1)
    )


@functools.cache
def _warn_of_automatic_axes(axes: Axes) -> None:
    if not axes:
        return
    warnings.warn(
        f"jax_fa4: axes {', '.join(axes)} of the mesh are left to the compiler where others are "
        "mapped or explicit. It cannot spread a kernel over those alone: it gathers the operands "
        "along them, and every device computes all of it. Make them explicit or map them, "
        "too (jax.shard_map's axis_names and specs), or pass implementation='xla'.",
        UserWarning,
        stacklevel=2,
    )


def _explicit_mesh(operands: Sequence[jax.Array]) -> Any:
    """The mesh in the operands' types, if shardings over some of its axes are; else None."""
    for x in operands:
        mesh = jax.typeof(x).sharding.mesh
        if _axes(mesh, AxisType.Explicit):
            return mesh
    return None


def _axes(mesh: Any, kind: AxisType) -> Axes:
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True) if not mesh.empty else ()
    return tuple(name for name, own in kinds if own == kind)


def _typed_layout(mesh: Any, operands: Sequence[jax.Array], dims: Sequence[str]) -> Layout:
    explicit = _axes(mesh, AxisType.Explicit)
    specs = [jax.typeof(x).sharding.spec for x in operands]
    return Layout.choose(
        {name: size for name, size in mesh.shape.items() if name in explicit},
        sizes(operands, dims),
        zip(dims, specs, strict=True),
    )


def _reshard(
    layout: Layout, mesh: Any, operands: Sequence[jax.Array], dims: Sequence[str]
) -> list[jax.Array]:
    shardings = [NamedSharding(mesh, layout.spec(own)) for own in dims]
    return [jax.sharding.reshard(x, s) for x, s in zip(operands, shardings, strict=True)]


def _explicit_map(
    layout: Layout, mesh: Any, compute: Compute, band: Band, dims: Any, results: Any
) -> Compute:
    mapped: Compute = jax.shard_map(
        layout.local(compute, band, dims, results),
        mesh=mesh,
        in_specs=tuple(map(layout.spec, dims)),
        out_specs=tuple(map(layout.spec, results)),
        axis_names=layout.used(),
    )
    return mapped
