"""What every role of the Hopper forward knows: layouts, tiles, pipelines, arrays."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, pipeline

from jax_fa4.kernels.sm90.forward.bounded import Bounded
from jax_fa4.kernels.sm90.forward.config import ForwardConfig
from jax_fa4.kernels.sm90.forward.walk import Walk
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import GlobalTensors

# TMA's word for lines that are to leave L2 before others: a tile of Q is read once, as one of O is
# written once, while K and V are read again for a head's other rows.
EVICT_FIRST = 0x12F0000000000000


@dataclass(frozen=True)
class SharedLayouts:
    """Swizzled layouts of the tiles; the last mode is the stage."""

    sQ: cute.ComposedLayout
    sK: cute.ComposedLayout
    sV: cute.ComposedLayout
    sO: cute.ComposedLayout


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory: sQ and sO hold a stage a consumer, sK and sV are rings."""

    sQ: cute.Tensor  # (64, head_dim, consumers)
    sK: cute.Tensor  # (tile_n, head_dim, stages)
    sV: cute.Tensor  # (head_dim_v, tile_n, stages)
    sO: cute.Tensor  # (64, head_dim_v, consumers)


@dataclass(frozen=True)
class Pipelines:
    """TMA to consumers; see the table above."""

    q: pipeline.PipelineTmaAsync
    k: pipeline.PipelineTmaAsync
    v: pipeline.PipelineTmaAsync
    output_read: cute.Pointer  # used where the output lies among the values


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: ForwardConfig
    dtype: type[cutlass.Numeric]
    tiled_mma_qk: cute.TiledMma
    tiled_mma_pv: cute.TiledMma
    pipelines: Pipelines
    shared: SharedTensors
    gmem: GlobalTensors
    band: Band
    walk: Walk
    ratio: cute.FastDivmodDivisor  # query heads a KV head, to divide by
    scale_log2: Float32
    bounded: Bounded | None = None  # where every row has bounds of its own
