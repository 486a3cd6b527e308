"""The Blackwell forward: O = softmax(scale * Q K^T, within the band) V, lse per row.

Usually a CTA has two tiles of 128 queries, 0 and 1, so that the tensor core multiplies for one
while the softmax of the other runs; S, P and O have columns of their own in tensor memory. A CTA
with one tile (head dim 256, for which tensor memory has no second O, and the form for few queries)
has two slots of scores instead, to which it gives its blocks of keys in turn, and P takes the place
of S: `mma_one_tile`, `load_one_tile`, `correction_one_tile`.

    load warp --TMA--> sQ[t] --+
                               +--> MMA warp: S[t] = Q[t] K^T --> tensor memory
    load warp --TMA--> ring ---+                  |
         (K and V in turn)     |    softmax warpgroup t: a thread a row; S[t] to P[t]
                               |                  |   row scales through sStats[t]
                               |    correction warpgroup: O[t] *= scale, where it matters
                               |                  |
                               +--> MMA warp: O[t] += P[t] V --> tensor memory
                                                  |
    store warp <-- sO <-- correction warpgroup: O[t] / sum, to 16 bits; lse

| barrier    | stages    | a phase ends when                       | who waits          |
|------------|-----------|-----------------------------------------|--------------------|
| q_full     | q_tiles   | TMA: Q[t] is in sQ[t]                   | MMA                |
| q_empty    | q_tiles   | the tile's last product with Q[t]       | load               |
| kv_full    | kv_stages | TMA: a block of K or of V, or a part    | MMA                |
| kv_empty   | kv_stages | every product with it                   | load               |
| s_full     | 2         | S[t], and every product before it       | softmax t          |
| s_empty    | s slots   | 4 softmax warps have read the slot      | MMA                |
| pv_ready   | 2         | 4 softmax warps: 3/4 of P[t]            | MMA                |
|            |           | 4 correction warps: O[t] is scaled, or  |                    |
|            |           | the tile before was read out            |                    |
| p_tail     | 2         | 4 softmax warps: the last 1/4 of P[t]   | MMA, mid product   |
| p_empty    | 2         | every product with V, of tile t         | softmax t          |
| stats_full | 4 outputs | a softmax warp: sums of its 32 rows;    | a correction warp  |
|            |           | with one tile their scales, too         |                    |
| stats_empty| 4 outputs | a correction warp has read them         | a softmax warp     |
| o_full     | outputs   | the tile's last product into O[t]; with | correction         |
|            |           | one O for two slots, every one          |                    |
| o_staged   | q_tiles   | 4 correction warps: a part of an O      | store              |
| o_stored   | q_tiles   | the TMA store has read it               | correction         |

With two tiles the scale of every block goes by a named barrier (`roles.NamedBarrier`). With one,
nobody uses s_empty and p_empty: the next S and the next P wait for the product with V by the order
of products.

A pair of CTAs (`config.cta_group` 2) multiplies together. Tile t of both is one product of 256
rows: each CTA has its own 128 of Q, S, P, O, and half of every block, of K the keys, of V the
columns, so that a stage of the ring is half as large and every block is read half as often.

                    CTA 0, the leader                    CTA 1
    shared memory   Q[t] rows   0..127, K keys  0..63    Q[t] rows 128..255, K keys 64..127
                    V columns 0..d/2                     V columns d/2..d
    load warp       announces the bytes of both          copies, too; completes at CTA 0's barrier
    MMA warp        issues for both, arrives at both     idle
    softmax, corr.  own rows; arrive at CTA 0            own rows; arrive at CTA 0

Barriers whose `paired` is set in `barrier_table` work so; the others are each CTA's own, and
stats_empty also answers for scales, which no barrier of both orders. Both walk the same tiles of
512 rows, and all blocks that any of a product's 256 rows sees; a CTA without rows takes part.
Without a pair, nothing of this is in the code.

Every role walks the same tiles (`schedulers`) and, for each t, the same blocks (`block_range` of
its own rows, 128 or a pair's 256): under a causal band tile 0 skips the last block of tile 1.
The MMA warp runs through the ends of tiles: the next tile's first S is issued before this tile's
last O is read out.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
from dataclasses import dataclass

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, max, min
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.forward import (
    correction,
    correction_one_tile,
    load,
    load_one_tile,
    mma,
    mma_one_tile,
    softmax,
    store,
)
from jax_fa4.kernels.sm100.forward.config import (
    ROWS,
    SLOTS,
    TILE_N,
    TMEM_COLUMNS,
    ForwardConfig,
    config_of,
)
from jax_fa4.kernels.sm100.forward.roles import THREADS, Role
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band, cuts_nothing
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, GlobalTensors, Shape
from jax_fa4.kernels.toolkit.head_packing import (
    BOX_COLUMNS,
    BOX_ROWS,
    HeadPacking,
    fewest_tiles,
)
from jax_fa4.kernels.toolkit.mbarriers import MbarrierArray, MbarrierSpec
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import ForwardVariant

_WARPS = 4  # of a warpgroup
_CTA_GROUPS = {1: tcgen05.CtaGroup.ONE, 2: tcgen05.CtaGroup.TWO}


@dataclass(frozen=True)
class SharedLayouts:
    """Swizzled layouts of the tiles; the last mode is the stage."""

    sQ: cute.ComposedLayout
    sK: cute.ComposedLayout
    sV: cute.ComposedLayout
    sO: cute.ComposedLayout


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory. sK and sV are two views of one ring, of parts of blocks."""

    sQ: cute.Tensor  # (MMA, 1, MMA_K, q_tiles)
    sK: cute.Tensor  # (MMA, 1, MMA_K, kv_stages)
    sV: cute.Tensor  # (MMA, 1, MMA_K, kv_stages)
    sO: cute.Tensor  # (128, output_columns, q_tiles)
    output: cute.Pointer  # where sO begins
    sStats: cute.Tensor  # (128, 2, outputs) float32: `softmax` says what


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
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: ForwardConfig
    dtype: type[cutlass.Numeric]
    tiled_mma_qk: cute.TiledMma
    tiled_mma_pv: cute.TiledMma
    barriers: dict[str, MbarrierArray]
    shared: SharedTensors
    gmem: GlobalTensors
    tmem: cute.Pointer  # float32 columns, lane 0
    band: Band
    scheduler: LongestFirst
    ratio: Int32  # query heads a KV head
    packing: HeadPacking
    boxes: Boxes | None  # where heads may be packed
    scale_log2: Float32
    rank: Int32  # of this CTA in its pair; a lone CTA is 0

    @property
    def is_leader(self):
        """Whether this CTA's MMA warp issues the products."""
        return True if self.config.cta_group == 1 else self.rank == 0


def barrier_table(config: ForwardConfig) -> dict[str, MbarrierSpec]:
    """The table in the module's docstring, as data."""
    tiles, stages, groups = config.q_tiles, config.kv_stages, config.outputs
    paired, warps = config.cta_group == 2, _WARPS * config.cta_group  # of a role in both CTAs
    return {
        "q_full": MbarrierSpec(tiles, 1, paired),
        "q_empty": MbarrierSpec(tiles, 1, paired),
        "kv_full": MbarrierSpec(stages, 1, paired),
        "kv_empty": MbarrierSpec(stages, 1, paired),
        "s_full": MbarrierSpec(SLOTS, 1, paired, of_tensors=True),
        "s_empty": MbarrierSpec(config.score_slots, warps, paired, of_tensors=True),
        "pv_ready": MbarrierSpec(SLOTS, 2 * warps, paired, of_tensors=True),
        "p_tail": MbarrierSpec(SLOTS, warps, paired, of_tensors=True),
        "p_empty": MbarrierSpec(SLOTS, 1, paired, of_tensors=True),
        "stats_full": MbarrierSpec(_WARPS * groups, 1),
        "stats_empty": MbarrierSpec(_WARPS * groups, 1),
        "o_full": MbarrierSpec(groups, 1, paired, of_tensors=True),
        "o_staged": MbarrierSpec(tiles, _WARPS),
        "o_stored": MbarrierSpec(tiles, 1),
    }


def _sync(paired: bool) -> None:
    """All threads of the CTA, or of both CTAs of the pair."""
    if paired:
        cute.arch.cluster_arrive()
        cute.arch.cluster_wait()
    else:
        cute.arch.sync_threads()


class ForwardSm100:
    """One compiled forward kernel for Blackwell; see the module's docstring."""

    def __init__(self, variant: ForwardVariant):
        self.config = config_of(variant)
        self.dtype = ELEMENT_TYPES[variant.dtype]

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        out_ptr: cute.Pointer,
        lse_ptr: cute.Pointer,
        batch: Int32,
        seqlen_q: Int32,
        seqlen_k: Int32,
        heads_q: Int32,
        heads_kv: Int32,
        head_dim: Int32,
        head_dim_v: Int32,
        softmax_scale: Float32,
        band_lower: Int32,
        band_upper: Int32,
        sm_count: Int32,
        stream: cuda.CUstream,
    ):
        """Launch on `stream`; pointers are to contiguous BSHD arrays and a BHS lse."""
        config = self.config
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        mQ, mK, mV = shape.queries(q_ptr), shape.keys(k_ptr), shape.values(v_ptr)
        mO, mLSE = shape.outputs(out_ptr), shape.rows(lse_ptr)

        qk, pv = self._tiled_mmas()
        layouts = self._smem_layouts(qk, pv)
        group = config.cta_group
        g2s = cpasync.CopyBulkTensorTileG2SOp(_CTA_GROUPS[group])
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        one = (None, None, None, 0)
        group = config.cta_group
        g2s = cpasync.CopyBulkTensorTileG2SOp(_CTA_GROUPS[group])
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        one = (None, None, None, 0)
        qk_tile, k_part, v_part = self._tiles()
        cluster = cute.tiled_divide(cute.make_layout((group, 1, 1)), (qk.thr_id.shape,)).shape
        tma_a, tma_b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B
        tma_q = tma_a(g2s, mQ, cute.slice_(layouts.sQ, one), qk_tile, qk, cluster)
        tma_k = tma_b(g2s, mK, cute.slice_(layouts.sK, one), k_part, qk, cluster)
        tma_v = tma_b(g2s, mV, cute.slice_(layouts.sV, one), v_part, pv, cluster)
        tma_o = cpasync.make_tiled_tma_atom(
            s2g, mO, cute.slice_(layouts.sO, (None, None, 0)), (ROWS, config.output_columns)
        )

        boxes, tokens = (), ()
        if cutlass.const_expr(config.q_tiles == 1):
            boxes, tokens = (
                self._boxes(mQ, mO),
                (fewest_tiles(seqlen_q, shape.ratio, config.cta_group),),
            )
            packing = HeadPacking(tokens[0], shape.ratio)
            scheduler = shape.packed_scheduler(packing, config.cta_group, self.dtype)
        else:
            scheduler = shape.scheduler(config.tile_m, self.dtype)
        tiles = scheduler.tiles()
        # Tiles that differ in length are left to the hardware, one a CTA, longest first.
        alike = cuts_nothing(shape.band(band_lower, band_upper))
        self.kernel(
            (qk, pv),
            tuple(tma_q),
            tuple(tma_k),
            tuple(tma_v),
            tuple(tma_o),
            boxes,
            mLSE,
            (band_lower, band_upper, seqlen_q, seqlen_k),
            (scheduler.row_blocks, scheduler.heads, batch, scheduler.heads_per_group),
            shape.ratio,
            tokens,
            softmax_scale * LOG2_E,
        ).launch(
            grid=((min(tiles, max(sm_count // group, 1)) if alike else tiles) * group, 1, 1),
            block=(THREADS, 1, 1),
            cluster=(group, 1, 1) if group > 1 else None,
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _tiles(self) -> tuple[tuple[int, int, int], ...]:
        """(M, N, K) of S = Q K^T of one tile, and of what it and O += P V take of a stage."""
        c, rows = self.config, self.config.rows
        return (
            (rows, TILE_N, c.head_dim),
            (rows, TILE_N, c.head_dim // c.k_parts),
            (rows, c.head_dim_v, TILE_N // c.v_parts),
        )

    def _tiled_mmas(self) -> tuple[cute.TiledMma, cute.TiledMma]:
        """Q, K and V from shared memory, P from tensor memory, both sums in float32."""
        k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
        _, k_part, v_part = self._tiles()
        group = _CTA_GROUPS[self.config.cta_group]
        make, dtype = blackwell.make_trivial_tiled_mma, self.dtype
        qk = make(dtype, dtype, k_major, k_major, Float32, group, k_part[:2])
        source = tcgen05.OperandSource.TMEM
        pv = make(dtype, dtype, k_major, mn_major, Float32, group, v_part[:2], source)
        return qk, pv

    def _smem_layouts(self, qk: cute.TiledMma, pv: cute.TiledMma) -> SharedLayouts:
        """Made anew on each side of the launch: a layout is a value of its region."""
        c, dtype = self.config, self.dtype
        qk_tile, k_part, v_part = self._tiles()
        return SharedLayouts(
            sQ=blackwell.make_smem_layout_a(qk, qk_tile, dtype, c.q_tiles),
            sK=blackwell.make_smem_layout_b(qk, k_part, dtype, c.kv_stages),
            sV=blackwell.make_smem_layout_b(pv, v_part, dtype, c.kv_stages),
            sO=blackwell.make_smem_layout_epi(
                dtype, LayoutEnum.ROW_MAJOR, (ROWS, c.output_columns), c.q_tiles
            ),
        )

    def _box_layout(self, columns: int):
        """A tile of 128 rows as boxes; see `Boxes`."""
        boxes = ROWS // BOX_ROWS * (columns // BOX_COLUMNS)
        return blackwell.make_smem_layout_epi(
            self.dtype, LayoutEnum.ROW_MAJOR, (BOX_ROWS, BOX_COLUMNS), boxes
        )

    def _boxes(self, mQ: cute.Tensor, mO: cute.Tensor):
        """TMA atoms and tensors for Q and O by boxes."""
        g2s = cpasync.CopyBulkTensorTileG2SOp(_CTA_GROUPS[self.config.cta_group])
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        box = cute.slice_(self._box_layout(BOX_COLUMNS), (None, None, 0))
        shape = (BOX_ROWS, BOX_COLUMNS)
        return (
            tuple(cpasync.make_tiled_tma_atom(g2s, mQ, box, shape)),
            tuple(cpasync.make_tiled_tma_atom(s2g, mO, box, shape)),
        )

    def _boxes_of(self, atoms, storage) -> Boxes | None:
        """What `_boxes` made, with the shared memory that it is for; None for nothing."""
        if not atoms:
            return None

        def view(field, columns):
            layout = self._box_layout(columns)
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        config = self.config
        sQ, sO = view(storage.sQ, config.head_dim), view(storage.sO, config.output_columns)
        return Boxes(*atoms, sQ, sO)

    def _shared_storage(self, layouts: SharedLayouts):
        """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""
        groups = self.config.outputs

        def tile(layout):
            return cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(layout)], 1024]

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table(self.config))]
            tmem: Int32
            sStats: cute.struct.MemRange[Float32, 2 * ROWS * groups]
            sQ: tile(layouts.sQ)
            sKV: tile(layouts.sK)
            sO: tile(layouts.sO)

        return SharedStorage

    def _shared_tensors(self, storage, layouts: SharedLayouts) -> SharedTensors:
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
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma],
        q: tuple[cute.CopyAtom, cute.Tensor],
        k: tuple[cute.CopyAtom, cute.Tensor],
        v: tuple[cute.CopyAtom, cute.Tensor],
        o: tuple[cute.CopyAtom, cute.Tensor],
        boxes: tuple,  # TMA atoms and tensors of `Boxes`; or ()
        mLSE: cute.Tensor,
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        ratio: Int32,
        tokens: tuple[Int32, ...],  # positions a tile of packed rows; or ()
        scale_log2: Float32,
    ):
        config, paired = self.config, self.config.cta_group == 2
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = self._smem_layouts(*tiled_mmas)
        storage = SmemAllocator().allocate(self._shared_storage(layouts))
        barriers = mbarriers.allocate(barrier_table(config), storage.barriers.data_ptr())
        if warp == Role.LOAD:
            for atom, _ in (q, k, v, o, *boxes):
                cpasync.prefetch_descriptor(atom)
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
            cute.arch.mbarrier_init_fence()
        if warp == Role.MMA:
            cute.arch.alloc_tmem(TMEM_COLUMNS, storage.tmem, is_two_cta=paired)
            cute.arch.relinquish_tmem_alloc_permit(is_two_cta=paired)
        _sync(paired)

        context = Context(
            config=config,
            dtype=self.dtype,
            tiled_mma_qk=tiled_mmas[0],
            tiled_mma_pv=tiled_mmas[1],
            barriers=barriers,
            shared=self._shared_tensors(storage, layouts),
            gmem=GlobalTensors(q, k, v, o, mLSE),
            tmem=cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem),
            band=Band(*band),
            scheduler=LongestFirst(*tiles),
            ratio=ratio,
            packing=HeadPacking(tokens[0] if cutlass.const_expr(len(tokens) > 0) else ROWS, ratio),
            boxes=self._boxes_of(boxes, storage),
            scale_log2=scale_log2,
            rank=cute.arch.block_idx_in_cluster() if cutlass.const_expr(paired) else 0,
        )

        # ---- softmax: a warpgroup for each O; scores to P
        if warp < _WARPS * config.outputs:
            cute.arch.setmaxregister_increase(config.softmax_registers)
            softmax.run(context, warp // _WARPS)

        # ---- correction: scales O in tensor memory, and reads it out
        if warp // _WARPS == Role.CORRECTION // _WARPS:
            cute.arch.setmaxregister_decrease(config.correction_registers)
            if cutlass.const_expr(config.q_tiles == 1):
                correction_one_tile.run(context)
            else:
                correction.run(context)

        # ---- the other four warps
        if warp // _WARPS == Role.MMA // _WARPS:
            cute.arch.setmaxregister_decrease(config.other_registers)
            if (warp == Role.MMA) & context.is_leader:
                if cutlass.const_expr(config.q_tiles == 1):
                    mma_one_tile.run(context)
                else:
                    mma.run(context)
            if warp == Role.STORE:
                store.run(context)
            if warp == Role.LOAD:
                if cutlass.const_expr(config.q_tiles == 1):
                    load_one_tile.run(context)
                else:
                    load.run(context)

        # Tensor memory is read by softmax and correction; who allocated it gives it back. Of a
        # pair, none leaves before the other's last arrival.
        _sync(paired)
        if warp == Role.MMA:
            # Read again, not kept in a register of every role.
            tmem = cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem)
            cute.arch.dealloc_tmem(tmem, TMEM_COLUMNS, is_two_cta=paired)
