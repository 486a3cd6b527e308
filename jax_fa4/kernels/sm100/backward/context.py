"""What every role of the backward knows, and the table of its barriers."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.backward.config import HALVES, Q_STAGES, BackwardConfig
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds
from jax_fa4.kernels.toolkit.mbarriers import MbarrierArray, MbarrierSpec
from jax_fa4.kernels.toolkit.schedulers import LongestFirst

WARPS = 4  # of a warpgroup


def barrier_table(config: BackwardConfig) -> dict[str, MbarrierSpec]:
    """The table in the kernel's docstring, as data."""
    compute, reduce = WARPS * HALVES, WARPS
    return {
        "k_full": MbarrierSpec(1, 1),
        "v_full": MbarrierSpec(1, 1),
        "q_full": MbarrierSpec(Q_STAGES, 1),
        "q_empty": MbarrierSpec(Q_STAGES, 1),
        "do_full": MbarrierSpec(config.do_stages, 1),
        "do_empty": MbarrierSpec(config.do_stages, 1),
        "stats_full": MbarrierSpec(Q_STAGES, 1),
        "stats_empty": MbarrierSpec(Q_STAGES, compute),
        "s_full": MbarrierSpec(1, 1),
        "p_ready": MbarrierSpec(1, compute),
        "dp_full": MbarrierSpec(1, 1),
        "ds_ready": MbarrierSpec(1, compute),
        "dq_full": MbarrierSpec(1, 1),
        "dq_empty": MbarrierSpec(1, reduce),
        "dv_full": MbarrierSpec(1, 1),
        "dk_full": MbarrierSpec(1, 1),
    }


@dataclass(frozen=True)
class TiledMmas:
    """One for each kind of product; the first serves S^T = K Q^T and dP^T = V dO^T."""

    scores: cute.TiledMma
    dv: cute.TiledMma  # dV += P^T dO
    dk: cute.TiledMma  # dK += dS^T Q
    dq: cute.TiledMma  # dQ = dS K


@dataclass(frozen=True)
class SharedLayouts:
    """Swizzled layouts of the tiles, as operands; the last mode is the stage.

    A tile that two products read has two: rows of a head's columns, and, transposed, columns of
    the same rows. The bytes are the same.
    """

    sK: cute.ComposedLayout
    sV: cute.ComposedLayout
    sQ: cute.ComposedLayout
    sdO: cute.ComposedLayout
    sKt: cute.ComposedLayout
    sQt: cute.ComposedLayout
    sdOt: cute.ComposedLayout
    sdS: cute.ComposedLayout
    sdK: cute.ComposedLayout  # how dK leaves
    sdV: cute.ComposedLayout


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory, by the names of `SharedLayouts`.

    dK leaves through the first stage of Q, and dV through that of dO, when no product reads them
    any more.
    """

    sK: cute.Tensor
    sV: cute.Tensor
    sQ: cute.Tensor
    sdO: cute.Tensor
    sKt: cute.Tensor
    sQt: cute.Tensor
    sdOt: cute.Tensor
    sdS: cute.Tensor
    sdK: cute.Tensor
    sdV: cute.Tensor
    dscores: cute.Pointer  # where sdS begins
    dk: cute.Pointer  # where sdK begins
    dv: cute.Pointer  # where sdV begins
    dq: cute.Pointer  # float32: a piece of dQ a stage and reduce warp
    sStats: cute.Tensor  # (128, 2, stages) float32: lse_log2 and delta of the block's queries


@dataclass(frozen=True)
class GlobalTensors:
    """TMA atoms with the tensors that they address; and float32 arrays."""

    q: tuple[cute.CopyAtom, cute.Tensor]  # (seqlen, head_dim, heads, batch), as all of these
    k: tuple[cute.CopyAtom, cute.Tensor]
    v: tuple[cute.CopyAtom, cute.Tensor]
    do: tuple[cute.CopyAtom, cute.Tensor]
    dk: tuple[cute.CopyAtom, cute.Tensor]
    dv: tuple[cute.CopyAtom, cute.Tensor]
    lse_log2: cute.Pointer  # (batch, heads_q, blocks of 128)
    delta: cute.Pointer
    dq_accum: cute.Pointer  # (batch, heads_q, blocks of 128, head_dim of the tile)
    semaphores: cute.Pointer  # (batch, heads_q, blocks of 64) Int32


@dataclass(frozen=True)
class Further:
    """What some entry points take beside what all take; empty where they do not."""

    # row_bounds, query_ids, key_ids, query_groups, key_groups
    bounds: tuple[cute.Pointer, ...] = ()
    softcap: Float32 | None = None


def bounds_of(pointers: tuple[cute.Pointer, ...], seqlen_q: Int32, seqlen_k: Int32) -> KeyBounds:
    """Of the bounds of `Further`."""
    return KeyBounds(*pointers[:4], seqlen_q, seqlen_k, pointers[4])


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: BackwardConfig
    dtype: type[cutlass.Numeric]
    mmas: TiledMmas
    barriers: dict[str, MbarrierArray]
    shared: SharedTensors
    gmem: GlobalTensors
    tmem: cute.Pointer  # float32 columns, lane 0
    band: Band
    scheduler: LongestFirst
    heads_q: Int32
    ratio: Int32  # query heads a KV head
    scale: Float32
    scale_log2: Float32
    deterministic: bool  # whether additions to dQ have an order
    bounds: KeyBounds | None  # in the place of the band, of which the lengths are left
    slope: Float32 | None  # of the softcap; `scale_log2` is then of its result
