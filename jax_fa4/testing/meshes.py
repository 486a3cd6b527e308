"""Context parallelism as an attention of whole arrays, in the order of the sequence."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

import jax_fa4


def mesh(**sizes: int) -> Mesh:
    """A mesh of the first devices with these axes, sharded by the compiler outside shard_map."""
    devices = jax.devices()
    total = 1
    for size in sizes.values():
        total *= size
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices[:total]
    )


def context_parallel(
    over: Mesh, *, layout: Any, spec: PartitionSpec | None = None, **options: Any
) -> Any:
    """attention(q, k, v) -> (out, lse), split over the axis "context" of the mesh."""
    shards = over.shape["context"]
    place: Any = PartitionSpec(None, "context") if spec is None else spec

    def attention(q: Any, k: Any, v: Any) -> tuple[jax.Array, jax.Array]:
        laid = (jax_fa4.to_layout(x, layout, shards) for x in (q, k, v))
        out, lse = jax_fa4.context_parallel_attention(
            *laid, mesh=over, spec=place, layout=layout, return_lse=True, **options
        )
        return (
            jax_fa4.from_layout(out, layout, shards),
            jax_fa4.from_layout(lse, layout, shards, axis=2),
        )

    return attention
