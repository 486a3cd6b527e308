"""What the steps of a decoding CTA know: static facts and handles, nothing that changes."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from jax_fa4.kernels.common.decode.config import WARPS, DecodeConfig
from jax_fa4.kernels.common.decode.parts import Parts


@dataclass(frozen=True)
class Cache:
    """Pages of keys and values, and where this sequence's are."""

    k: tuple[cute.CopyAtom, cute.Tensor]  # (page_size, head_dim, heads_kv, num_pages)
    v: tuple[cute.CopyAtom, cute.Tensor]
    page_table: cute.Pointer
    num_pages: Int32
    page_size: Int32


@dataclass(frozen=True)
class Queries:
    """A CTA's rows; row r is query r / ratio and head r % ratio of the KV head."""

    pointer: cute.Pointer
    sequence: Int32
    head_kv: Int32
    first_row: Int32
    seqlen_q: Int32
    heads_q: Int32
    ratio: Int32
    head_dim: Int32

    @property
    def rows(self) -> Int32:
        return self.seqlen_q * self.ratio

    def row(self, within: Int32) -> Int32:
        """The row's number, from its place in the CTA."""
        return self.first_row + within

    def head(self, row: Int32) -> Int32:
        return self.head_kv * self.ratio + row % self.ratio

    def token(self, row: Int32) -> Int64:
        """Its place among (B, Sq, Hq)."""
        position = Int64(self.sequence) * self.seqlen_q + row // self.ratio
        return position * self.heads_q + self.head(row)

    def lse_place(self, row: Int32) -> Int64:
        """Its place among (B, Hq, Sq)."""
        line = Int64(self.sequence) * self.heads_q + self.head(row)
        return line * self.seqlen_q + row // self.ratio


@dataclass(frozen=True)
class Arrays:
    """Where results go."""

    out: cute.Pointer  # (B, Sq, Hq, Dv)
    lse: cute.Pointer  # (B, Hq, Sq)
    out_partial: cute.Pointer  # (num_splits, B, Hq, Sq, Dv)
    lse_partial: cute.Pointer  # (num_splits, B, Hq, Sq)
    sinks: cute.Pointer  # (Hq,)
    batch: Int32
    head_dim_v: Int32


@dataclass(frozen=True)
class Team:
    """Warps with a ring in common, each with 16 rows of its own; teams share out the blocks."""

    size: Int32  # 1, 2 or 4 warps
    number: Int32
    member: Int32
    count: Int32  # of teams
    stages: Int32
    first_stage: Int32

    @classmethod
    def of(cls, warp: Int32, size: Int32, stages: int) -> Team:
        """A warp's team; `stages` is a warp's share of the rings."""
        number = warp // size
        return cls(size, number, warp % size, WARPS // size, size * stages, number * size * stages)


@dataclass(frozen=True)
class Context:
    """Everything of a CTA, and of this thread's place in it."""

    config: DecodeConfig
    dtype: type[cutlass.Numeric]
    warp: Int32
    lane: Int32
    team: Team
    full: cute.Pointer  # barriers of the stages: loaded,
    empty: cute.Pointer  # and read by all of a team
    sK: cute.Tensor  # (16, head_dim, warps * stages)
    sV: cute.Tensor
    ring_k: cute.Pointer
    ring_v: cute.Pointer
    peaks: cute.Pointer  # (warp, row), of the merging
    totals: cute.Pointer
    cache: Cache
    queries: Queries
    parts: Parts
    band: tuple[Int32, Int32]
    softmax_scale: Float32
    softcap: Float32
