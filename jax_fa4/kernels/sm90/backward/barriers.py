"""Barriers of the Hopper backward."""

from __future__ import annotations

from enum import IntEnum

from jax_fa4.kernels.sm90.backward import turns
from jax_fa4.kernels.sm90.backward.config import BackwardConfig
from jax_fa4.kernels.toolkit.mbarriers import MbarrierSpec


class NamedBarrier(IntEnum):
    """Named barriers; 0 is sync_threads'."""

    KEYS_READ = 1  # all threads: K is no longer read
    EPILOGUE = 2  # and 3: 128 threads, one consumer's own


def mbarrier_table(config: BackwardConfig) -> dict[str, MbarrierSpec]:
    """Name -> (stages, arrivals); full ones count the producer, empty ones consumer warps.

    NOTES: threads read lse_log2 and delta, and compute-sanitizer takes a read to be over when its
    own thread arrives: it does not follow a meeting of the warp and one lane's arrival.
    """
    warps = 4 * config.consumers
    return {
        "kv_full": MbarrierSpec(2, 1),  # K, then V
        "q_full": MbarrierSpec(config.stages, 1),
        "q_empty": MbarrierSpec(config.stages, warps, by_lanes=True),
        "do_full": MbarrierSpec(config.stages, 1),
        "do_empty": MbarrierSpec(config.stages, warps, by_lanes=True),
        "ds_full": MbarrierSpec(config.ds_stages, warps),
        "ds_empty": MbarrierSpec(config.ds_stages, 4),
        **turns.mbarrier_table(config),
    }
