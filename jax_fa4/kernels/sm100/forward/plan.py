"""The products' shapes, and the tiles of shared memory that they and TMA agree on."""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.forward.config import (
    CLAIM_BYTES,
    ROWS,
    TILE_N,
    TILE_PLACES,
    ForwardConfig,
)
from jax_fa4.kernels.sm100.forward.context import Boxes, SharedTensors, barrier_table
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.head_packing import BOX_COLUMNS, BOX_ROWS

CTA_GROUPS = {1: tcgen05.CtaGroup.ONE, 2: tcgen05.CtaGroup.TWO}


@dataclass(frozen=True)
class SharedLayouts:
    """Swizzled layouts of the tiles; the last mode is the stage."""

    sQ: cute.ComposedLayout
    sK: cute.ComposedLayout
    sV: cute.ComposedLayout
    sO: cute.ComposedLayout


@dataclass(frozen=True)
class Plan:
    """What follows from the configuration and the element type alone."""

    config: ForwardConfig
    dtype: type[cutlass.Numeric]
    out_dtype: type[cutlass.Numeric]

    def tiles(self) -> tuple[tuple[int, int, int], ...]:
        """(M, N, K) of S = Q K^T of one tile, and of what it and O += P V take of a stage."""
        c, rows = self.config, self.config.rows
        return (
            (rows, TILE_N, c.head_dim),
            (rows, TILE_N, c.head_dim // c.k_parts),
            (rows, c.head_dim_v, TILE_N // c.v_parts),
        )

    def tiled_mmas(self) -> tuple[cute.TiledMma, cute.TiledMma]:
        """Q, K and V from shared memory, P from tensor memory, both sums in float32."""
        k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
        _, k_part, v_part = self.tiles()
        group = CTA_GROUPS[self.config.cta_group]
        make, dtype = blackwell.make_trivial_tiled_mma, self.dtype
        qk = make(dtype, dtype, k_major, k_major, Float32, group, k_part[:2])
        source = tcgen05.OperandSource.TMEM
        pv = make(dtype, dtype, k_major, mn_major, Float32, group, v_part[:2], source)
        return qk, pv

    def smem_layouts(self, qk: cute.TiledMma, pv: cute.TiledMma) -> SharedLayouts:
        """Made anew on each side of the launch: a layout is a value of its region."""
        c, dtype = self.config, self.dtype
        qk_tile, k_part, v_part = self.tiles()
        return SharedLayouts(
            sQ=blackwell.make_smem_layout_a(qk, qk_tile, dtype, c.q_tiles),
            sK=blackwell.make_smem_layout_b(qk, k_part, dtype, c.kv_stages),
            sV=blackwell.make_smem_layout_b(pv, v_part, dtype, c.kv_stages),
            sO=blackwell.make_smem_layout_epi(
                self.out_dtype, LayoutEnum.ROW_MAJOR, (ROWS, c.output_columns), c.q_tiles
            ),
        )

    def whole_tiles(self, qk: cute.TiledMma, pv: cute.TiledMma, layouts: SharedLayouts, tensors):
        """TMA atoms and tensors of Q, K, V and O, in the parts that the ring and sO have."""
        (mQ, mK, mV, mO), group = tensors, self.config.cta_group
        g2s = cpasync.CopyBulkTensorTileG2SOp(CTA_GROUPS[group])
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        one = (None, None, None, 0)
        qk_tile, k_part, v_part = self.tiles()
        cluster = cute.tiled_divide(cute.make_layout((group, 1, 1)), (qk.thr_id.shape,)).shape
        tma_a, tma_b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B
        tma_q = tma_a(g2s, mQ, cute.slice_(layouts.sQ, one), qk_tile, qk, cluster)
        tma_k = tma_b(g2s, mK, cute.slice_(layouts.sK, one), k_part, qk, cluster)
        tma_v = tma_b(g2s, mV, cute.slice_(layouts.sV, one), v_part, pv, cluster)
        columns = (ROWS, self.config.output_columns)
        tma_o = cpasync.make_tiled_tma_atom(
            s2g, mO, cute.slice_(layouts.sO, (None, None, 0)), columns
        )
        return tuple(tma_q), tuple(tma_k), tuple(tma_v), tuple(tma_o)

    def box_layout(self, columns: int):
        """A tile of 128 rows as boxes; see `Boxes`."""
        boxes = ROWS // BOX_ROWS * (columns // BOX_COLUMNS)
        return blackwell.make_smem_layout_epi(
            self.dtype, LayoutEnum.ROW_MAJOR, (BOX_ROWS, BOX_COLUMNS), boxes
        )

    def boxes(self, mQ: cute.Tensor, mO: cute.Tensor):
        """TMA atoms and tensors for Q and O by boxes."""
        g2s = cpasync.CopyBulkTensorTileG2SOp(CTA_GROUPS[self.config.cta_group])
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        box = cute.slice_(self.box_layout(BOX_COLUMNS), (None, None, 0))
        shape = (BOX_ROWS, BOX_COLUMNS)
        return (
            tuple(cpasync.make_tiled_tma_atom(g2s, mQ, box, shape)),
            tuple(cpasync.make_tiled_tma_atom(s2g, mO, box, shape)),
        )

    def boxes_of(self, atoms, storage) -> Boxes | None:
        """What `_boxes` made, with the shared memory that it is for; None for nothing."""
        if not atoms:
            return None

        def view(field, columns):
            layout = self.box_layout(columns)
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        config = self.config
        sQ, sO = view(storage.sQ, config.head_dim), view(storage.sO, config.output_columns)
        return Boxes(*atoms, sQ, sO)

    def shared_storage(self, layouts: SharedLayouts):
        """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""
        groups, claims = self.config.outputs, int(self.config.claims_tiles)

        def tile(layout, dtype=self.dtype):
            return cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(layout)], 1024]

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table(self.config))]
            tmem: Int32
            sStats: cute.struct.MemRange[Float32, 2 * ROWS * groups]
            claim: cute.struct.Align[cute.struct.MemRange[Int32, claims * CLAIM_BYTES // 4], 16]
            tiles: cute.struct.MemRange[Int32, claims * TILE_PLACES]
            sQ: tile(layouts.sQ)
            sKV: tile(layouts.sK)
            sO: tile(layouts.sO, self.out_dtype)

        return SharedStorage

    def shared_tensors(self, storage, layouts: SharedLayouts) -> SharedTensors:
        def tensor(field, layout):
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        stats = cute.make_layout((ROWS, 2, self.config.outputs))
        return SharedTensors(
            sQ=tensor(storage.sQ, layouts.sQ),
            sK=tensor(storage.sKV, layouts.sK),
            sV=tensor(storage.sKV, layouts.sV),
            sO=tensor(storage.sO, layouts.sO),
            output=storage.sO.data_ptr(),
            sStats=storage.sStats.get_tensor(stats),
            tiles=cute.make_tensor(storage.tiles.data_ptr(), cute.make_layout(TILE_PLACES)),
            claim=storage.claim.data_ptr(),
        )
