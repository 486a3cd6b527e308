"""What every role of the backward knows, and the table of its barriers."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.backward_wide.config import HALVES, STATS_STAGES, WideConfig
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds
from jax_fa4.kernels.toolkit.mbarriers import MbarrierArray, MbarrierSpec
from jax_fa4.kernels.toolkit.schedulers import LongestFirst

WARPS = 4  # of a warpgroup


def barrier_table(config: WideConfig) -> dict[str, MbarrierSpec]:
    """The table in the kernel's docstring, as data."""
    compute = WARPS * HALVES
    return {
        "own_ready": MbarrierSpec(1, compute),
        "own_full": MbarrierSpec(1, 1),
        "first_full": MbarrierSpec(config.first_stages, 1),
        "first_empty": MbarrierSpec(config.first_stages, 1),
        "second_full": MbarrierSpec(config.second_stages, 1),
        "second_empty": MbarrierSpec(config.second_stages, 1),
        "stats_full": MbarrierSpec(STATS_STAGES, 1),
        "stats_empty": MbarrierSpec(STATS_STAGES, compute),
        "s_full": MbarrierSpec(2, 1),
        "s_read": MbarrierSpec(1, compute),
        "dp_full": MbarrierSpec(1, 1),
        "p_ready": MbarrierSpec(2, compute),
        "ds_ready": MbarrierSpec(1, compute),
        "sum_full": MbarrierSpec(1, 1),
    }


@dataclass(frozen=True)
class TiledMmas:
    """One for each kind of product."""

    from_tmem: cute.TiledMma  # S or dP of own rows in tensor memory
    from_smem: cute.TiledMma  # of those in shared memory
    wide: cute.TiledMma  # dK += dS^T Q, or dQ += dS K
    dv: cute.TiledMma  # dV += P^T dO


@dataclass(frozen=True)
class SharedLayouts:
    """Swizzled layouts of the tiles, as operands; the last mode is the stage.

    A tile that two products read has two: rows of a head's columns, and, transposed, columns of
    the same rows. The bytes are the same.
    """

    first: cute.ComposedLayout
    first_t: cute.ComposedLayout
    second: cute.ComposedLayout
    second_t: cute.ComposedLayout
    own_first: cute.ComposedLayout
    own_second: cute.ComposedLayout


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory, by the names of `SharedLayouts`; own rows are in the place of their
    ring's last stages."""

    first: cute.Tensor
    first_t: cute.Tensor
    second: cute.Tensor
    second_t: cute.Tensor
    own_first: cute.Tensor
    own_second: cute.Tensor
    stats: cute.Tensor  # (64, 2, stages) float32: lse_log2 and delta of the block's queries
    unread: cute.Tensor  # a word a compute thread: see compute._finish


@dataclass(frozen=True)
class GlobalTensors:
    """TMA atoms with the tensors that they address, (seqlen, head_dim, heads, batch); pointers to
    contiguous BSHD arrays; and float32 arrays."""

    q: tuple[cute.CopyAtom, cute.Tensor]  # blocks of the stream, as these four
    k: tuple[cute.CopyAtom, cute.Tensor]
    v: tuple[cute.CopyAtom, cute.Tensor]
    do: tuple[cute.CopyAtom, cute.Tensor]
    own: tuple  # those of own rows for shared memory, for the gradients in turn that want them
    q_rows: cute.Pointer
    k_rows: cute.Pointer
    v_rows: cute.Pointer
    do_rows: cute.Pointer
    dk: cute.Pointer
    dv: cute.Pointer
    lse_log2: cute.Pointer  # (batch, heads_q, blocks of 128)
    delta: cute.Pointer
    dq_accum: cute.Pointer  # (batch, heads_q, blocks of 128, head_dim of the tile)


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: WideConfig
    dtype: type[cutlass.Numeric]
    mmas: TiledMmas
    barriers: dict[str, MbarrierArray]
    shared: SharedTensors
    gmem: GlobalTensors
    tmem: cute.Pointer  # float32 columns, lane 0
    tile: Int32  # of those that make this CTA's gradient
    band: Band
    head_dim: Int32
    head_dim_v: Int32
    of_keys: LongestFirst
    of_queries: LongestFirst
    ratio: Int32  # query heads a KV head
    by_ratio: cute.FastDivmodDivisor
    scale: Float32
    scale_log2: Float32
    bounds: KeyBounds | None  # in the place of the band, of which the lengths are left
    slope: Float32 | None  # of the softcap; `scale_log2` is then of its result
