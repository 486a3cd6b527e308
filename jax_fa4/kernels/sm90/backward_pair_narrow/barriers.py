"""Barriers of the Hopper backward in pairs of CTAs, narrow heads."""

from __future__ import annotations

from jax_fa4.kernels.sm90.backward import turns
from jax_fa4.kernels.sm90.backward_pair_narrow.config import PAIR, NarrowConfig
from jax_fa4.kernels.toolkit.mbarriers import MbarrierSpec


def mbarrier_table(config: NarrowConfig) -> dict[str, MbarrierSpec]:
    """Name -> (stages, arrivals); the kernel's docstring says who arrives.

    All lanes arrive where they have read rows: sm90/backward/barriers.py says why.
    """
    warps = 4 * config.consumers
    return {
        "kv_full": MbarrierSpec(3, 1),  # K, V, and the other CTA's K
        "q_full": MbarrierSpec(config.q_stages, 1),
        "q_empty": MbarrierSpec(config.q_stages, warps, by_lanes=True),
        "q_freed": MbarrierSpec(config.q_stages, warps),
        "do_full": MbarrierSpec(config.do_stages, 1),
        "do_empty": MbarrierSpec(config.do_stages, warps, by_lanes=True),
        "do_freed": MbarrierSpec(config.do_stages, warps),
        "ds_full": MbarrierSpec(config.ds_stages, warps),
        "ds_empty": MbarrierSpec(config.ds_stages, PAIR * 4),
        **turns.mbarrier_table(config),
    }
