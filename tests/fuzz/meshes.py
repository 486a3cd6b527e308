"""Arrays cut over devices in ways that a seed chooses."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def shard(seed: int, x: np.ndarray) -> jax.Array:
    """The array on a mesh, cut along some of the axes that can be cut."""
    free = ["data", "model"]
    spec: list[str | None] = []
    for axis, size in enumerate(x.shape):
        cut = bool(free) and size > 0 and size % 2 == 0 and (seed >> axis) % 3 != 0
        spec.append(free.pop(0) if cut else None)
    return jax.device_put(x, NamedSharding(_mesh(), PartitionSpec(*spec)))


@functools.cache
def _mesh() -> jax.sharding.Mesh:
    """2 x 2 devices, or of as many as there are, for a machine with one GPU has but one."""
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    shape = next(s for s in ((2, 2), (2, 1), (1, 1)) if s[0] * s[1] <= jax.device_count())
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("data", "model"), axis_types=axis_types, devices=devices)
