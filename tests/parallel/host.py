"""One host of two, each with two devices of one mesh: run by test_hosts.

python host.py ADDRESS NUMBER
"""

import sys

import jax

jax.distributed.initialize(
    sys.argv[1], num_processes=2, process_id=int(sys.argv[2]), initialization_timeout=120
)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

import jax_fa4  # noqa: E402

SHAPES = ((2, 48, 4, 8), (2, 48, 2, 8), (2, 48, 2, 12))
SPEC = PartitionSpec(None, "context")


def gradients(attention):
    """out, dq, dk, dv of a sum of squares, and of ids as they come."""

    def run(q, k, v, ids):
        def loss(*qkv):
            out = attention(*qkv, ids)
            return (out**2).sum(), out

        found, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return out, *found

    return jax.jit(run)


def one_device(q, k, v, ids):
    return jax_fa4.dot_product_attention(q, k, v, is_causal=True, query_segment_ids=ids)


def check(strategy, layout, arrays, wanted):
    """This host's part of the results, against all of it on one device."""
    mesh = jax.make_mesh((4,), ("context",), axis_types=(AxisType.Auto,))
    positions = jax_fa4.layout_positions(layout, 4, 48)

    def spread(x):
        return jax.make_array_from_callback(
            x.shape, NamedSharding(mesh, SPEC), lambda index: x[:, positions][index]
        )

    def attention(q, k, v, ids):
        return jax_fa4.context_parallel_attention(
            *(q, k, v),
            mesh=mesh,
            spec=SPEC,
            layout=layout,
            strategy=strategy,
            causal=True,
            query_segment_ids=ids,
        )

    results = gradients(attention)(*map(spread, arrays))
    for found, whole in zip(results, wanted, strict=True):
        assert len(found.addressable_shards) == 2
        assert not found.is_fully_addressable
        for shard in found.addressable_shards:
            part = np.asarray(whole)[:, positions][shard.index]
            np.testing.assert_allclose(shard.data, part, atol=2e-5, rtol=2e-5)


def main():
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    arrays.append(np.broadcast_to(np.arange(48) // 20, (2, 48)).astype(np.int32))
    wanted = gradients(one_device)(*map(jnp.asarray, arrays))
    for strategy, layout in (("ring", "zigzag"), ("ulysses", "contiguous")):
        check(strategy, layout, arrays, wanted)
        print(f"{strategy} {layout}: right", flush=True)


if __name__ == "__main__":
    main()
