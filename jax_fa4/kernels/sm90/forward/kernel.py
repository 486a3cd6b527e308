"""The Hopper forward: O = softmax(scale * Q K^T, within the band) V, lse per row.

    producer warp --TMA--> sQ --+
                                +--> consumer warpgroups 0..n-1 (64 rows each)
    producer warp --TMA--> sK --+      S = Q K^T        WGMMA, both from shared memory
                                |      mask, softmax    registers, base 2
    producer warp --TMA--> sV --+      O += P V         WGMMA, P from registers
                                       sO --TMA--> O, lse by ordinary stores

| pipeline | stages         | full: producer      | empty: consumer              |
| q        | query_stages a consumer | TMA, 1 arrival + tx | its consumer's 4 warps |
| k, v     | config.stages  | TMA, 1 arrival + tx | every consumer warp          |
| output_read (where O lies among the values) | one | every consumer: its store was read | - |

Named barriers keep the consumers in turn: while one runs its softmax, the next issues its
products (FlashAttention-3's ping-pong). A CTA walks tiles, one or many (walk.py); its
producer runs ahead into the next tile, and so do its consumers by the first product.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Int64, min, pipeline
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.forward import consumer, load, walk
from jax_fa4.kernels.sm90.forward.bounded import Bounded
from jax_fa4.kernels.sm90.forward.config import ROWS_PER_WARPGROUP, config_of
from jax_fa4.kernels.sm90.forward.context import Context, Pipelines, SharedLayouts, SharedTensors
from jax_fa4.kernels.toolkit.block_range import Band, cuts_nothing, visited_blocks
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, GlobalTensors, Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import ForwardVariant


class ForwardSm90:
    """One compiled forward kernel for Hopper; see the module's docstring."""

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
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        pointers = (q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr)
        band = shape.band(band_lower, band_upper)
        self.launch(pointers, shape, band, softmax_scale * LOG2_E, (), sm_count, stream)

    @cute.jit
    def launch(self, pointers, shape: Shape, band: Band, scale_log2, bounds, sm_count, stream):
        """Launch; `bounds` are what a bounded kernel has beside these."""
        config = self.config
        q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr = pointers
        mQ, mK, mV = shape.queries(q_ptr), shape.keys(k_ptr), shape.values(v_ptr)
        mO, mLSE = shape.outputs(out_ptr), shape.rows(lse_ptr)

        tiled_mma_qk, tiled_mma_pv = self._tiled_mmas()
        tile_q = (ROWS_PER_WARPGROUP, config.head_dim)
        tile_k = (config.tile_n, config.head_dim)
        tile_v = (config.head_dim_v, config.tile_n)
        tile_o = (ROWS_PER_WARPGROUP, config.head_dim_v)
        layouts = self._smem_layouts()
        g2s, s2g = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()
        one = (None, None, 0)
        tma_q = cpasync.make_tiled_tma_atom(g2s, mQ, cute.slice_(layouts.sQ, one), tile_q)
        tma_k = cpasync.make_tiled_tma_atom(g2s, mK, cute.slice_(layouts.sK, one), tile_k)
        tma_v = cpasync.make_tiled_tma_atom(g2s, mV, cute.slice_(layouts.sV, one), tile_v)
        tma_o = cpasync.make_tiled_tma_atom(s2g, mO, cute.slice_(layouts.sO, one), tile_o)

        order, ctas = self._walk(shape, band, sm_count)
        self.kernel(
            (tiled_mma_qk, tiled_mma_pv),
            tuple(tma_q),
            tuple(tma_k),
            tuple(tma_v),
            tuple(tma_o),
            mLSE,
            (band.lower, band.upper, band.seqlen_q, band.seqlen_k),
            (order.tiles.row_blocks, shape.heads_q, shape.batch, order.tiles.heads_per_group),
            order.tiles.make_divisors(),
            order.is_paired,
            tuple(map(cute.fast_divmod_create_divisor, (order.tiles.row_blocks, shape.ratio))),
            scale_log2,
            bounds,
        ).launch(
            grid=(ctas, 1, 1),
            block=(config.threads, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    @cute.jit
    def _walk(self, shape: Shape, band: Band, sm_count: Int32) -> tuple[walk.Walk, Int32]:
        """The order of the tiles, and how many CTAs walk it; see ForwardConfig and walk.py."""
        c = self.config
        tiles = shape.scheduler(c.tile_m, self.dtype)
        first, last = visited_blocks(band, band.seqlen_q // 2, c.tile_m, c.tile_n)
        alike = cuts_nothing(band)
        persistent = alike | (last - first < c.persistent_below)
        heads_per_group = Int32(1) if alike else tiles.heads_per_group
        order = walk.Walk(
            LongestFirst(tiles.row_blocks, tiles.heads, tiles.batch, heads_per_group),
            Boolean(False) if alike else persistent,
        )
        units = walk.units(order)
        ctas = min(units, sm_count) if persistent else units
        return order, ctas

    def _bounded(self, bounds: tuple, band) -> Bounded | None:
        """What the roles of a bounded kernel know beside the usual."""
        return None

    def _tiled_mmas(self) -> tuple[cute.TiledMma, cute.TiledMma]:
        """S = Q K^T from shared memory, O += P V with P from registers; one warpgroup each."""
        k_major, mn_major = warpgroup.OperandMajorMode.K, warpgroup.OperandMajorMode.MN
        qk = hopper.make_trivial_tiled_mma(
            self.dtype,
            self.dtype,
            k_major,
            k_major,
            Float32,
            atom_layout_mnk=(1, 1, 1),
            tiler_mn=(ROWS_PER_WARPGROUP, self.config.tile_n),
        )
        pv = hopper.make_trivial_tiled_mma(
            self.dtype,
            self.dtype,
            k_major,
            mn_major,
            Float32,
            atom_layout_mnk=(1, 1, 1),
            tiler_mn=(ROWS_PER_WARPGROUP, self.config.head_dim_v),
            a_source=warpgroup.OperandSource.RMEM,
        )
        return qk, pv

    def _smem_layouts(self) -> SharedLayouts:
        """Made anew on each side of the launch: a layout is a value of its region."""
        c = self.config
        qk_tile = (ROWS_PER_WARPGROUP, c.tile_n, c.head_dim)
        pv_tile = (ROWS_PER_WARPGROUP, c.head_dim_v, c.tile_n)
        row, column = LayoutEnum.ROW_MAJOR, LayoutEnum.COL_MAJOR
        return SharedLayouts(
            sQ=hopper.make_smem_layout_a(row, qk_tile, self.dtype, c.consumers * c.query_stages),
            sK=hopper.make_smem_layout_b(row, qk_tile, self.dtype, c.stages),
            sV=hopper.make_smem_layout_b(column, pv_tile, self.dtype, c.stages),
            sO=hopper.make_smem_layout_a(
                row, (ROWS_PER_WARPGROUP, c.tile_n, c.head_dim_v), self.dtype, c.consumers
            ),
        )

    def _shared_storage(self, layouts: SharedLayouts):
        """The memory map: barriers, then tiles on 1024-byte boundaries for the swizzle."""
        c = self.config

        def tile(layout, present=True):
            elements = cute.cosize(layout) if present else 0
            return cute.struct.Align[cute.struct.MemRange[self.dtype, elements], 1024]

        @cute.struct
        class SharedStorage:
            q_barriers: cute.struct.MemRange[Int64, 2 * c.consumers * c.query_stages]
            k_barriers: cute.struct.MemRange[Int64, 2 * c.stages]
            v_barriers: cute.struct.MemRange[Int64, 2 * c.stages]
            output_read: cute.struct.MemRange[Int64, 1]
            sQ: tile(layouts.sQ)
            sK: tile(layouts.sK)
            sV: tile(layouts.sV)
            sO: tile(layouts.sO, not c.output_in_values)

        return SharedStorage

    @cute.jit
    def _pipelines(self, storage, layouts: SharedLayouts) -> Pipelines:
        """Barriers initialised by one thread; the caller fences and synchronises."""
        c = self.config

        def create(barriers, stages, consumer_warps, layout):
            return pipeline.PipelineTmaAsync.create(
                barrier_storage=barriers.data_ptr(),
                num_stages=stages,
                producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
                consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, consumer_warps),
                tx_count=cute.size_in_bytes(self.dtype, cute.slice_(layout, (None, None, 0))),
                defer_sync=True,
            )

        output_read = storage.output_read.data_ptr()
        if cutlass.const_expr(c.output_in_values) and cute.arch.warp_idx() == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_init(output_read, c.consumers)
        return Pipelines(
            output_read=output_read,
            q=create(storage.q_barriers, c.consumers * c.query_stages, 4, layouts.sQ),
            k=create(storage.k_barriers, c.stages, 4 * c.consumers, layouts.sK),
            v=create(storage.v_barriers, c.stages, 4 * c.consumers, layouts.sV),
        )

    def _shared_tensors(self, storage, layouts: SharedLayouts) -> SharedTensors:
        def tensor(field, layout):
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        sO_field = storage.sV if self.config.output_in_values else storage.sO
        return SharedTensors(
            sQ=tensor(storage.sQ, layouts.sQ),
            sK=tensor(storage.sK, layouts.sK),
            sV=tensor(storage.sV, layouts.sV),
            sO=tensor(sO_field, layouts.sO),
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma],
        q: tuple[cute.CopyAtom, cute.Tensor],
        k: tuple[cute.CopyAtom, cute.Tensor],
        v: tuple[cute.CopyAtom, cute.Tensor],
        o: tuple[cute.CopyAtom, cute.Tensor],
        mLSE: cute.Tensor,
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        divisors: tuple[cute.FastDivmodDivisor, ...],
        is_paired: Boolean,
        further_divisors: tuple[cute.FastDivmodDivisor, cute.FastDivmodDivisor],
        scale_log2: Float32,
        bounds: tuple,
    ):
        by_rows, by_ratio = further_divisors
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            for atom in (q[0], k[0], v[0], o[0]):
                cpasync.prefetch_descriptor(atom)

        layouts = self._smem_layouts()
        storage = SmemAllocator().allocate(self._shared_storage(layouts))
        context = Context(
            config=self.config,
            dtype=self.dtype,
            tiled_mma_qk=tiled_mmas[0],
            tiled_mma_pv=tiled_mmas[1],
            pipelines=self._pipelines(storage, layouts),
            shared=self._shared_tensors(storage, layouts),
            gmem=GlobalTensors(q, k, v, o, mLSE),
            band=Band(*band),
            walk=walk.Walk(LongestFirst(*tiles, divisors), is_paired, by_rows),
            ratio=by_ratio,
            scale_log2=scale_log2,
            bounded=self._bounded(bounds, band),
        )
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        # ---- producer: warp 0 loads, warps 1 to 3 only give their registers away
        if warp < 4:
            cute.arch.setmaxregister_decrease(self.config.producer_registers)
            if warp == 0:
                load.run(context)

        # ---- consumers: softmax(Q K^T) V, 64 rows a warpgroup
        if warp >= 4:
            cute.arch.setmaxregister_increase(self.config.consumer_registers)
            consumer.run(context, warp // 4 - 1)
