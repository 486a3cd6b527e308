"""What every role of a pair's backward knows, and the table of its barriers."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.backward.config import HALVES
from jax_fa4.kernels.sm100.backward.context import WARPS, TiledMmas
from jax_fa4.kernels.sm100.backward_pair.config import PAIR, STATS_STAGES, PairConfig
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.mbarriers import MbarrierArray, MbarrierSpec
from jax_fa4.kernels.toolkit.schedulers import LongestFirst


def barrier_table() -> dict[str, MbarrierSpec]:
    """The table in the kernel's docstring, as data."""
    compute, reduce = WARPS * HALVES, WARPS
    loads = ("k", "v", "kt")  # once
    rounds = ("q", "qt", "do", "dot")  # for every visit

    def of_pair(arrivals: int, of_tensors: bool = False) -> MbarrierSpec:
        return MbarrierSpec(1, arrivals, paired=True, of_tensors=of_tensors)

    return {
        **{f"{name}_full": of_pair(1) for name in (*loads, *rounds)},
        **{f"{name}_empty": of_pair(1) for name in rounds},
        "stats_full": MbarrierSpec(STATS_STAGES, 1),
        "stats_empty": MbarrierSpec(STATS_STAGES, compute),
        "s_full": of_pair(1, of_tensors=True),
        "s_read": of_pair(PAIR * compute, of_tensors=True),
        "p_begun": of_pair(PAIR * compute, of_tensors=True),
        "p_ready": of_pair(PAIR * compute, of_tensors=True),
        "dp_full": of_pair(1, of_tensors=True),
        "ds_ready": of_pair(PAIR * compute, of_tensors=True),
        "ds_full": MbarrierSpec(1, WARPS),
        "ds_of_peer": MbarrierSpec(1, 1),
        "dq_full": of_pair(1),
        "dq_empty": of_pair(PAIR * reduce, of_tensors=True),
        "dv_full": of_pair(1),
        "dk_full": of_pair(1),
    }


@dataclass(frozen=True)
class SharedLayouts:
    """Swizzled layouts of a CTA's tiles, as operands of the pair's products.

    What two kinds of products sum over in different directions is there twice, since a CTA has
    half of an operand's columns: of the queries for S and dP, of the head dim for dV, dK and dQ.
    """

    sK: cute.ComposedLayout  # own keys
    sV: cute.ComposedLayout
    sQ: cute.ComposedLayout  # half of the queries
    sdO: cute.ComposedLayout
    sKt: cute.ComposedLayout  # keys of both, half of the columns
    sQt: cute.ComposedLayout  # all queries, half of the columns
    sdOt: cute.ComposedLayout
    sdS: cute.ComposedLayout  # own queries, keys of both
    sdK: cute.ComposedLayout  # how dK leaves
    sdV: cute.ComposedLayout


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory, by the names of `SharedLayouts`.

    dK leaves through K, and dV through V, when no product of either CTA reads them any more.
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
    dscores: cute.Pointer  # where sdS begins; behind it, dS of own keys and the peer's queries
    dk: cute.Pointer  # where sdK begins
    dv: cute.Pointer  # where sdV begins
    dq: cute.Pointer  # float32: a piece of dQ a stage and reduce warp
    sStats: cute.Tensor  # (128, 2, stages) float32: lse_log2 and delta of the block's queries


@dataclass(frozen=True)
class GlobalTensors:
    """TMA atoms with the tensors that they address; and float32 arrays."""

    q: tuple[cute.CopyAtom, cute.Tensor]  # (seqlen, head_dim, heads, batch), as the first four
    k: tuple[cute.CopyAtom, cute.Tensor]
    v: tuple[cute.CopyAtom, cute.Tensor]
    do: tuple[cute.CopyAtom, cute.Tensor]
    qt: tuple[cute.CopyAtom, cute.Tensor]  # (head_dim, seqlen, heads, batch)
    kt: tuple[cute.CopyAtom, cute.Tensor]
    dot: tuple[cute.CopyAtom, cute.Tensor]
    dk: tuple[cute.CopyAtom, cute.Tensor]  # as the first four
    dv: tuple[cute.CopyAtom, cute.Tensor]
    lse_log2: cute.Pointer  # (batch, heads_q, blocks of 128)
    delta: cute.Pointer
    dq_accum: cute.Pointer  # (batch, heads_q, blocks of 128, head_dim of the tile)
    semaphores: cute.Pointer  # (batch, heads_q, blocks of 64) Int32


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: PairConfig
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
    rank: Int32  # of this CTA in its pair; 0 leads
    deterministic: bool  # whether additions to dQ have an order
