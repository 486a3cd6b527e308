"""A program for one process: a gradient compiled with a persistent cache, and what the cache did.

    python cached_call.py DIRECTORY AXIS_TYPE SCALE

AXIS_TYPE is "one" for a single device. Prints the number of hits and a number of the result.
"""

import collections
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_fa4


def main(directory, kind, scale):
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", kind == "Auto")
    sharding = None
    if kind != "one":
        mesh = jax.make_mesh((4,), ("x",), axis_types=(getattr(AxisType, kind),))
        sharding = NamedSharding(mesh, PartitionSpec("x"))
    x = np.linspace(-2, 2, 4 * 24 * 2 * 64).reshape(4, 24, 2, 64)
    x = jax.device_put(jax.numpy.asarray(x, "bfloat16"), sharding)

    @jax.jit
    @jax.grad
    def call(x):
        out = jax_fa4.flash_attention(
            x, x, x, softmax_scale=scale, causal=True, implementation="emulator"
        )
        return (out.astype("float32") ** 2).sum()

    events = collections.Counter()
    jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
    gradient = call(x)
    hits = events["/jax/compilation_cache/cache_hits"]
    print(hits, float(np.asarray(gradient, np.float32).std()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
