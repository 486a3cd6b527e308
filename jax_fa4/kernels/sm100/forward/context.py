"""What every role of the Blackwell forward knows, and the table of its barriers."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.forward.config import SLOTS, TILE_PLACES, WARPS, ForwardConfig
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import Descales, GlobalTensors
from jax_fa4.kernels.toolkit.head_packing import HeadPacking
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds
from jax_fa4.kernels.toolkit.mbarriers import MbarrierArray, MbarrierSpec
from jax_fa4.kernels.toolkit.schedulers import LongestFirst


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory. sK and sV are two views of one ring, of parts of blocks."""

    sQ: cute.Tensor  # (MMA, 1, MMA_K, q_tiles)
    sK: cute.Tensor  # (MMA, 1, MMA_K, kv_stages)
    sV: cute.Tensor  # (MMA, 1, MMA_K, kv_stages)
    sO: cute.Tensor  # (128, output_columns, q_tiles)
    output: cute.Pointer  # where sO begins
    sStats: cute.Tensor  # (128, 2, outputs) float32: `softmax` says what
    tiles: cute.Tensor  # numbers of tiles, where they are claimed: `schedule`
    claim: cute.Pointer  # what became of a claim


@dataclass(frozen=True)
class Boxes:
    """Q and O by boxes of 8 rows and 64 columns, for packed heads.

    Box b of panel p of columns is stage 16 p + b of the views of shared memory.
    """

    q: tuple[cute.CopyAtom, cute.Tensor]
    o: tuple[cute.CopyAtom, cute.Tensor]
    sQ: cute.Tensor  # (8, 64, stages)
    sO: cute.Tensor  # (8, 64, stages)


@dataclass(frozen=True)
class Further:
    """What some entry points take beside what all take; empty where they do not."""

    descales: tuple[cute.Pointer, ...] = ()  # of q, k, v
    bounds: tuple[cute.Pointer, ...] = ()  # row_bounds, query_ids, key_ids, query_groups, sinks
    softcap: Float32 | None = None


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: ForwardConfig
    dtype: type[cutlass.Numeric]
    out_dtype: type[cutlass.Numeric]
    tiled_mma_qk: cute.TiledMma
    tiled_mma_pv: cute.TiledMma
    barriers: dict[str, MbarrierArray]
    shared: SharedTensors
    gmem: GlobalTensors
    tmem: cute.Pointer  # float32 columns, lane 0
    band: Band
    scheduler: LongestFirst
    ratio: Int32 | cute.FastDivmodDivisor  # query heads a KV head, to divide by
    packing: HeadPacking
    boxes: Boxes | None  # where heads may be packed
    scale_log2: Float32
    rank: Int32  # of this CTA in its pair; a lone CTA is 0
    descales: Descales | None  # of 8-bit elements
    bounds: KeyBounds | None  # in the place of the band, of which the lengths are left
    sinks: cute.Pointer | None  # by query head, natural logarithm; with bounds
    slope: Float32 | None  # of the softcap; `scale_log2` is then of its result

    @property
    def is_leader(self):
        """Whether this CTA's MMA warp issues the products."""
        return True if self.config.cta_group == 1 else self.rank == 0


def barrier_table(config: ForwardConfig) -> dict[str, MbarrierSpec]:
    """The table in the docstring of `kernel`, as data."""
    tiles, stages, groups = config.q_tiles, config.kv_stages, config.outputs
    paired, warps = config.cta_group == 2, WARPS * config.cta_group  # of a role in both CTAs
    # Not with a pair, where each lane's arrival would cross to the leader by itself. With one tile
    # ptxas would spill.
    lanes = not paired and tiles > 1
    table = {
        "q_full": MbarrierSpec(tiles, 1, paired),
        "q_empty": MbarrierSpec(tiles, 1, paired),
        "kv_full": MbarrierSpec(stages, 1, paired),
        "kv_empty": MbarrierSpec(stages, 1, paired),
        "s_full": MbarrierSpec(SLOTS, 1, paired, of_tensors=True),
        "s_empty": MbarrierSpec(config.score_slots, warps, paired, of_tensors=True, by_lanes=lanes),
        "pv_ready": MbarrierSpec(SLOTS, 2 * warps, paired, of_tensors=True, by_lanes=lanes),
        "p_tail": MbarrierSpec(SLOTS, warps, paired, of_tensors=True, by_lanes=lanes),
        "p_empty": MbarrierSpec(SLOTS, 1, paired, of_tensors=True),
        "stats_full": MbarrierSpec(WARPS * groups, 1),
        "stats_empty": MbarrierSpec(WARPS * groups, 1),
        "o_full": MbarrierSpec(groups, 1, paired, of_tensors=True),
        "o_staged": MbarrierSpec(tiles, WARPS),
        "o_stored": MbarrierSpec(tiles, 1),
    }
    if config.claims_tiles:
        table |= {
            "claim_due": MbarrierSpec(1, 1),
            "claim_full": MbarrierSpec(1, 1),
            "tile_full": MbarrierSpec(TILE_PLACES, 1),
            # Softmax, correction; load, MMA, store.
            "tile_empty": MbarrierSpec(TILE_PLACES, WARPS * (groups + 1) + 3),
        }
    return table
