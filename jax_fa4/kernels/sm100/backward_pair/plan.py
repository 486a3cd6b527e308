"""Products, layouts and copies of a pair's backward, by its tiles."""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward.config import HALF, TILE
from jax_fa4.kernels.sm100.backward.context import WARPS, TiledMmas
from jax_fa4.kernels.sm100.backward_pair.config import PAIR, PAIR_KEYS, STATS_STAGES, PairConfig
from jax_fa4.kernels.sm100.backward_pair.context import (
    SharedLayouts,
    SharedTensors,
    barrier_table,
)
from jax_fa4.kernels.toolkit import mbarriers

_TWO = tcgen05.CtaGroup.TWO


@dataclass(frozen=True)
class Plan:
    """What follows from the tiles, on both sides of the launch."""

    config: PairConfig
    dtype: type[cutlass.Numeric]

    def tiled_mmas(self) -> TiledMmas:
        """Of both CTAs together. All sums in float32; P^T and dS^T from tensor memory."""
        k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
        make, dtype, c = blackwell.make_trivial_tiled_mma, self.dtype, self.config
        tmem = tcgen05.OperandSource.TMEM
        square = (PAIR_KEYS, TILE)
        of_v, of_k, of_q = (PAIR_KEYS, c.head_dim_v), (PAIR_KEYS, c.head_dim), (TILE, c.head_dim)
        return TiledMmas(
            scores=make(dtype, dtype, k_major, k_major, Float32, _TWO, square),
            dv=make(dtype, dtype, k_major, mn_major, Float32, _TWO, of_v, tmem),
            dk=make(dtype, dtype, k_major, mn_major, Float32, _TWO, of_k, tmem),
            dq=make(dtype, dtype, mn_major, mn_major, Float32, _TWO, of_q),
        )

    def _tiles(self) -> dict[str, tuple[int, int, int]]:
        """(M, N, K) of the products that read each tile of shared memory."""
        c = self.config
        of_k, of_v = (PAIR_KEYS, TILE, c.head_dim), (PAIR_KEYS, TILE, c.head_dim_v)
        return {
            **dict.fromkeys(("k", "q"), of_k),
            **dict.fromkeys(("v", "do"), of_v),
            "kt": (TILE, c.head_dim, PAIR_KEYS),
            "qt": (PAIR_KEYS, c.head_dim, TILE),
            "dot": (PAIR_KEYS, c.head_dim_v, TILE),
        }

    def smem_layouts(self, mmas: TiledMmas) -> SharedLayouts:
        """Made anew on each side of the launch: a layout is a value of its region."""
        c, dtype, tiles = self.config, self.dtype, self._tiles()
        a, b = blackwell.make_smem_layout_a, blackwell.make_smem_layout_b

        def leaving(columns):
            return blackwell.make_smem_layout_epi(dtype, LayoutEnum.ROW_MAJOR, (TILE, columns), 1)

        return SharedLayouts(
            sK=a(mmas.scores, tiles["k"], dtype, 1),
            sV=a(mmas.scores, tiles["v"], dtype, 1),
            sQ=b(mmas.scores, tiles["q"], dtype, 1),
            sdO=b(mmas.scores, tiles["do"], dtype, 1),
            sKt=b(mmas.dq, tiles["kt"], dtype, 1),
            sQt=b(mmas.dk, tiles["qt"], dtype, 1),
            sdOt=b(mmas.dv, tiles["dot"], dtype, 1),
            sdS=a(mmas.dq, tiles["kt"], dtype, 1),
            sdK=leaving(c.head_dim),
            sdV=leaving(c.head_dim_v),
        )

    def loads(self, mmas: TiledMmas, layouts: SharedLayouts, tensors: dict) -> tuple:
        """TMA atoms and tensors of what `tensors` names, in the order of `GlobalTensors`."""
        g2s = cpasync.CopyBulkTensorTileG2SOp(_TWO)
        tiles = self._tiles()
        shape = (mmas.scores.thr_id.shape,)
        cluster = cute.tiled_divide(cute.make_layout((PAIR, 1, 1)), shape).shape
        a, b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B

        def load(make, name, layout, mma):
            one = cute.slice_(layout, (None, None, None, 0))
            return tuple(make(g2s, tensors[name], one, tiles[name], mma, cluster))

        return (
            load(b, "q", layouts.sQ, mmas.scores),
            load(a, "k", layouts.sK, mmas.scores),
            load(a, "v", layouts.sV, mmas.scores),
            load(b, "do", layouts.sdO, mmas.scores),
            load(b, "qt", layouts.sQt, mmas.dk),
            load(b, "kt", layouts.sKt, mmas.dq),
            load(b, "dot", layouts.sdOt, mmas.dv),
        )

    def stores(self, layouts: SharedLayouts, mdK: cute.Tensor, mdV: cute.Tensor) -> tuple:
        """TMA atoms and tensors of dK and dV."""
        c = self.config
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        one = (None, None, 0)
        make = cpasync.make_tiled_tma_atom
        return (
            tuple(make(s2g, mdK, cute.slice_(layouts.sdK, one), (TILE, c.head_dim))),
            tuple(make(s2g, mdV, cute.slice_(layouts.sdV, one), (TILE, c.head_dim_v))),
        )

    def shared_storage(self, layouts: SharedLayouts):
        """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""

        def tile(layout, more=0):
            size = cute.cosize(layout) + more
            return cute.struct.Align[cute.struct.MemRange[self.dtype, size], 1024]

        floats = WARPS * self.config.dq_stages * self.config.dq_piece
        stats = 2 * TILE * STATS_STAGES

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table())]
            tmem: Int32
            sStats: cute.struct.Align[cute.struct.MemRange[Float32, stats], 128]
            sK: tile(layouts.sK)
            sV: tile(layouts.sV)
            sKt: tile(layouts.sKt)
            sQ: tile(layouts.sQ)
            sQt: tile(layouts.sQt)
            sdO: tile(layouts.sdO)
            sdOt: tile(layouts.sdOt)
            sdS: tile(layouts.sdS, TILE * HALF)
            sdQ: cute.struct.Align[cute.struct.MemRange[Float32, floats], 1024]

        return SharedStorage

    def shared_tensors(self, storage, layouts: SharedLayouts) -> SharedTensors:
        def tensor(field, layout):
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        return SharedTensors(
            sK=tensor(storage.sK, layouts.sK),
            sV=tensor(storage.sV, layouts.sV),
            sQ=tensor(storage.sQ, layouts.sQ),
            sdO=tensor(storage.sdO, layouts.sdO),
            sKt=tensor(storage.sKt, layouts.sKt),
            sQt=tensor(storage.sQt, layouts.sQt),
            sdOt=tensor(storage.sdOt, layouts.sdOt),
            sdS=tensor(storage.sdS, layouts.sdS),
            sdK=tensor(storage.sK, layouts.sdK),
            sdV=tensor(storage.sV, layouts.sdV),
            dscores=storage.sdS.data_ptr(),
            dk=storage.sK.data_ptr(),
            dv=storage.sV.data_ptr(),
            dq=storage.sdQ.data_ptr(),
            sStats=storage.sStats.get_tensor(cute.make_layout((TILE, 2, STATS_STAGES))),
        )
