"""What the roles of a Hopper backward know."""

# No `from __future__ import annotations` here: the DSL reads annotations as objects.
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm90.backward.bounded import Bounded, SeenBlocks
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.query_range import QueryRange


@dataclass(frozen=True, kw_only=True)
class GlobalTensors:
    """TMA atoms with the tensors that they address, (seqlen, head_dim, heads, batch)."""

    q: tuple[cute.CopyAtom, cute.Tensor]
    k: tuple[cute.CopyAtom, cute.Tensor]
    v: tuple[cute.CopyAtom, cute.Tensor]
    do: tuple[cute.CopyAtom, cute.Tensor]
    dk: tuple[cute.CopyAtom, cute.Tensor]
    dv: tuple[cute.CopyAtom, cute.Tensor]
    lse_log2: cute.Pointer  # (batch, heads_q, rows_padded)
    delta: cute.Pointer  # likewise
    dq_accum: cute.Pointer  # (batch, heads_q, rows_padded * head_dim), in panels
    semaphores: cute.Pointer | None = None  # (batch, heads_q, rows_padded / 64)
    other_k: tuple[cute.CopyAtom, cute.Tensor] | None = None  # of pairs, by half of the columns


@dataclass(frozen=True, kw_only=True)
class SharedTensors:
    """Tiles in shared memory; the last mode is the consumer, the stage, or both."""

    sK: cute.Tensor  # (64, head_dim, consumers)
    sV: cute.Tensor  # (64, head_dim_v, consumers)
    sQ: cute.Tensor  # (tile_m, query_columns, q_stages)
    sdO: cute.Tensor  # (tile_m, gradient_columns, do_stages)
    sdS: cute.Tensor  # (64, tile_m, ctas * consumers * ds_stages): keys by queries, ours first
    sLSE: cute.Tensor  # (tile_m * q_stages)
    sDelta: cute.Tensor  # (tile_m * do_stages)
    sOtherK: cute.Tensor | None = None  # (64, head_dim / 2, consumers)


@dataclass(frozen=True, kw_only=True)
class Position:
    """What this CTA works on."""

    key_block: Int32  # of tile_n keys
    rank: Int32  # in the cluster
    head_kv: Int32
    batch: Int32


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: Any  # `BackwardConfig`, `PairConfig` or `NarrowConfig`
    dtype: type[cutlass.Numeric]
    tiled_mma_s: cute.TiledMma
    tiled_mma_kv: cute.TiledMma  # of dK, and of dV unless it has one
    tiled_mma_q: cute.TiledMma
    barriers: dict[str, mbarriers.MbarrierArray]
    shared: SharedTensors
    gmem: GlobalTensors
    band: Band
    queries: QueryRange | SeenBlocks
    position: Position
    heads_q: Int32
    ratio: Int32  # query heads a KV head
    rows_padded: Int32
    scale: Float32
    scale_log2: Float32
    upwards: Int32 | None = None  # 1 or 0, where CTAs take turns
    tiled_mma_v: cute.TiledMma | None = None
    bounded: Bounded | None = None  # where every row has bounds of its own
