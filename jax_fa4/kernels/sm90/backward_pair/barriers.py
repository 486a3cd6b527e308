"""Barriers of the Hopper backward in pairs of CTAs."""

from __future__ import annotations

from enum import IntEnum

from jax_fa4.kernels.sm90.backward import turns
from jax_fa4.kernels.sm90.backward_pair.config import PAIR, PairConfig
from jax_fa4.kernels.toolkit.mbarriers import MbarrierSpec

_WARPS = 4  # of a warpgroup


class NamedBarrier(IntEnum):
    """Named barriers; 0 is sync_threads'."""

    KEYS_READ = 1  # of the warpgroups that multiply: K and V are no longer read
    EPILOGUE = 2  # and 3: one warpgroup's own, that of dV or of dK


def mbarrier_table(config: PairConfig) -> dict[str, MbarrierSpec]:
    """Name -> (stages, arrivals); the kernel's docstring says who arrives.

    All lanes arrive where they have read rows, or written or read P: sm90/backward/barriers.py says
    why.
    """
    return {
        "kv_full": MbarrierSpec(3, 1),  # K, V, and the other CTA's K
        "q_full": MbarrierSpec(config.q_stages, 1),
        "q_empty": MbarrierSpec(config.q_stages, 2 * _WARPS, by_lanes=True),
        "q_ready": MbarrierSpec(PAIR, 1),
        "do_full": MbarrierSpec(config.do_stages, 1),
        "do_empty": MbarrierSpec(config.do_stages, 2 * _WARPS, by_lanes=True),
        "do_ready": MbarrierSpec(PAIR, 1),
        "p_full": MbarrierSpec(config.ds_stages, _WARPS, by_lanes=True),
        "ds_full": MbarrierSpec(config.ds_stages, _WARPS, by_lanes=True),
        "ds_empty": MbarrierSpec(config.ds_stages, 2 * _WARPS),
        **turns.mbarrier_table(config),
    }
