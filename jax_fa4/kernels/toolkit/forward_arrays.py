"""What every forward kernel is called with, and what it makes of it before the launch."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.head_packing import HeadPacking
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import DType

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
ELEMENT_TYPES = {
    DType.BF16: cutlass.BFloat16,
    DType.FP16: cutlass.Float16,
    DType.E4M3: cutlass.Float8E4M3FN,
}


@dataclass(frozen=True)
class GlobalTensors:
    """TMA atoms and the tensors in global memory that they address."""

    q: tuple[cute.CopyAtom, cute.Tensor]  # (seqlen_q, head_dim, heads_q, batch)
    k: tuple[cute.CopyAtom, cute.Tensor]  # (seqlen_k, head_dim, heads_kv, batch)
    v: tuple[cute.CopyAtom, cute.Tensor]  # (head_dim_v, seqlen_k, heads_kv, batch)
    o: tuple[cute.CopyAtom, cute.Tensor]  # (seqlen_q, head_dim_v, heads_q, batch)
    mLSE: cute.Tensor  # (seqlen_q, heads_q, batch)


@dataclass(frozen=True)
class Descales:
    """What Q, K and V of 8 bits are multiplied by: (heads_kv, batch), float32."""

    mQ: cute.Tensor
    mK: cute.Tensor
    mV: cute.Tensor


@dataclass(frozen=True)
class Shape:
    """Lengths of one call, in the order of the kernels' arguments."""

    batch: Int32
    seqlen_q: Int32
    seqlen_k: Int32
    heads_q: Int32
    heads_kv: Int32
    head_dim: Int32
    head_dim_v: Int32

    def queries(self, pointer: cute.Pointer) -> cute.Tensor:
        """Q: (batch, seqlen, heads, head_dim) as (seqlen, head_dim, heads, batch)."""
        return _view(pointer, self.seqlen_q, self.heads_q, self.head_dim, self.batch)

    def outputs(self, pointer: cute.Pointer) -> cute.Tensor:
        """O, in the same order, of the values' head dim."""
        return _view(pointer, self.seqlen_q, self.heads_q, self.head_dim_v, self.batch)

    def keys(self, pointer: cute.Pointer) -> cute.Tensor:
        """K, in the same order."""
        return _view(pointer, self.seqlen_k, self.heads_kv, self.head_dim, self.batch)

    def values(self, pointer: cute.Pointer) -> cute.Tensor:
        """V as (head_dim_v, seqlen, heads, batch): the rows of the operand that it is."""
        rows = _view(pointer, self.seqlen_k, self.heads_kv, self.head_dim_v, self.batch)
        return cute.make_tensor(pointer, cute.select(rows.layout, [1, 0, 2, 3]))

    def rows(self, pointer: cute.Pointer) -> cute.Tensor:
        """lse: (batch, heads, seqlen) as (seqlen, heads, batch)."""
        layout = cute.make_layout(
            (self.seqlen_q, self.heads_q, self.batch),
            stride=(1, Int64(self.seqlen_q), Int64(self.heads_q) * self.seqlen_q),
        )
        return cute.make_tensor(pointer, layout)

    def descale(self, pointer: cute.Pointer) -> cute.Tensor:
        """A descale: (batch, heads_kv) as (heads_kv, batch)."""
        layout = cute.make_layout((self.heads_kv, self.batch), stride=(1, self.heads_kv))
        return cute.make_tensor(pointer, layout)

    @property
    def ratio(self) -> Int32:
        """Query heads a KV head."""
        return self.heads_q // self.heads_kv

    def scheduler(self, tile_m: int, dtype: type[cutlass.Numeric]) -> LongestFirst:
        """The tiles of `tile_m` rows, in groups of heads whose K and V stay in L2."""
        return self._scheduler(tile_m, self.ratio, dtype)

    def packed_scheduler(self, packing: HeadPacking, ctas: int, dtype) -> LongestFirst:
        """The tiles of packed rows of `ctas`; what it calls a head is a group of the packing."""
        return self._scheduler(packing.tokens * ctas, packing.groups, dtype)

    def _scheduler(self, tile_m, groups, dtype: type[cutlass.Numeric]) -> LongestFirst:
        """`groups` tiles a KV head for every `tile_m` positions."""
        head_dims = self.head_dim + self.head_dim_v
        bytes_per_kv_head = Int64(self.seqlen_k) * head_dims * (dtype.width // 8)
        heads = self.heads_kv * groups
        heads_per_group = LongestFirst.heads_that_fit_l2(
            heads * self.batch, groups, bytes_per_kv_head
        )
        row_blocks = cute.ceil_div(self.seqlen_q, tile_m)
        return LongestFirst(row_blocks, heads, self.batch, heads_per_group)

    def band(self, lower: Int32, upper: Int32) -> Band:
        return Band(lower, upper, self.seqlen_q, self.seqlen_k)


def _view(pointer: cute.Pointer, seqlen: Int32, heads: Int32, head_dim: Int32, batch: Int32):
    row = Int64(heads) * head_dim
    layout = cute.make_layout(
        (seqlen, head_dim, heads, batch), stride=(row, 1, Int64(head_dim), row * seqlen)
    )
    return cute.make_tensor(pointer, layout)
