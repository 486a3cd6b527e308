"""Barriers of the serial backward."""

from __future__ import annotations

from enum import IntEnum

from jax_fa4.kernels.sm90.backward_serial.config import KEY_STAGES, SerialConfig
from jax_fa4.kernels.toolkit.mbarriers import MbarrierSpec


class NamedBarrier(IntEnum):
    """Named barriers; 0 is sync_threads'."""

    EPILOGUE = 2  # and 3: 128 threads, one consumer's own


def mbarrier_table(config: SerialConfig) -> dict[str, MbarrierSpec]:
    """Name -> (stages, arrivals); full ones count the producer, empty ones consumer warps."""
    warps = 4 * config.consumers
    return {
        "k_full": MbarrierSpec(KEY_STAGES, 1),
        "v_full": MbarrierSpec(1, 1),
        "q_full": MbarrierSpec(config.stages, 1),
        "q_empty": MbarrierSpec(config.stages, warps, by_lanes=True),
        "do_full": MbarrierSpec(config.stages, 1),
        "do_empty": MbarrierSpec(config.stages, warps, by_lanes=True),
        "ds_full": MbarrierSpec(config.ds_stages, warps),
        "ds_empty": MbarrierSpec(config.ds_stages, 4),
    }
