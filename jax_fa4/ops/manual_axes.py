"""Types inside `jax.shard_map(check_vma=True)`: which manual axes a value varies over.

A result type that leaves the axes out makes `grad` and `scan` fail there. JAX spells
them `manual_axis_type` from 0.10 and `vma` in 0.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def varying_axes(x: Any) -> frozenset[Any]:
    """Names of the manual axes over which `x` differs between devices."""
    aval = jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)
    if manual is not None:
        return frozenset(manual.varying)
    return frozenset(getattr(aval, "vma", ()))


def vary(x: jax.Array, axes: frozenset[Any]) -> jax.Array:
    """`x` typed as varying over `axes` too; its gradient is summed over those added."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


# jax.ShapeDtypeStruct with a signature for the type checker.
shape_dtype: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct


def result_type(shape: tuple[int, ...], dtype: Any, like: jax.Array) -> jax.ShapeDtypeStruct:
    """The type of a custom call's result that varies as `like` does."""
    axes = varying_axes(like)
    aval = jax.typeof(like)
    mesh = aval.sharding.mesh
    if not axes and (mesh.empty or AxisType.Explicit not in mesh.axis_types):
        return shape_dtype(shape, dtype)
    replicated: Callable[..., PartitionSpec] = PartitionSpec
    sharding = NamedSharding(mesh, replicated())
    if not axes:
        return shape_dtype(shape, dtype, sharding=sharding)
    if getattr(aval, "manual_axis_type", None) is not None:
        extra: dict[str, Any] = {"manual_axis_type": jax.sharding.ManualAxisType(varying=axes)}
    else:
        extra = {"vma": axes}
    return shape_dtype(shape, dtype, sharding=sharding, **extra)
