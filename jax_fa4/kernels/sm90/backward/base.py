"""What Hopper's backward kernels have in common: the launch, and how a CTA begins.

One CTA, or a cluster of two, owns a block of keys of one KV head. A kernel's class says how a CTA
is built, its barriers and products, and who does what; its module's docstring draws the pipeline.
"""

# No `from __future__ import annotations` here: the DSL reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Int64, max, min, select_
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from jax_fa4.kernels.sm90.backward import memory, turns
from jax_fa4.kernels.sm90.backward.bounded import Bounded
from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP
from jax_fa4.kernels.sm90.backward.context import Context, GlobalTensors, Position
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.query_range import query_range
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant

ROWS_PADDED_TO = 128  # rows of lse_log2, delta and dq_accum a (batch, head)
_DQ_BYTES = 4
_HEADS_OF_LONG_TILES = 8  # in a group, at least
_ROWS = ("lse_log2", "delta", "dq_accum", "semaphores")


class HopperBackward:
    """One compiled backward kernel for Hopper.

    A subclass says `config_of`, `make_tiled_mmas`, `mbarrier_table` and `roles`.
    """

    def __init__(self, variant: BackwardVariant):
        self.config = self.config_of(variant)
        self.dtype = ELEMENT_TYPES[variant.dtype]

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        dout_ptr: cute.Pointer,
        lse_log2_ptr: cute.Pointer,
        delta_ptr: cute.Pointer,
        dq_accum_ptr: cute.Pointer,
        dk_ptr: cute.Pointer,
        dv_ptr: cute.Pointer,
        semaphores_ptr: cute.Pointer,
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
        """Launch on `stream`; pointers are to contiguous BSHD arrays and padded rows."""
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        self.launch(
            (q_ptr, k_ptr, v_ptr, dout_ptr),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr, semaphores_ptr),
            (dk_ptr, dv_ptr),
            shape,
            (shape.band(band_lower, band_upper), softmax_scale),
            (),
            sm_count,
            stream,
        )

    @cute.jit
    def launch(self, loaded, rows, stored, shape: Shape, visible, bounds, sm_count, stream):
        """Launch; `visible` are the band and the scale, `bounds` what a bounded kernel has."""
        config, (band, softmax_scale) = self.config, visible
        is_cut = (band.upper < shape.seqlen_k - 1) | (band.lower > 1 - shape.seqlen_q)
        scheduler, upwards = self._order(shape, sm_count, is_cut)
        self.kernel(
            self.make_tiled_mmas(config, self.dtype),
            self._atoms(shape, loaded, stored),
            rows,
            (band.lower, band.upper, band.seqlen_q, band.seqlen_k),
            (scheduler.row_blocks, shape.heads_kv, shape.batch, scheduler.heads_per_group),
            scheduler.make_divisors() if config.ctas > 1 else (),
            (shape.heads_q, shape.ratio, softmax_scale, *upwards),
            bounds,
        ).launch(
            grid=(scheduler.tiles() * config.ctas, 1, 1),
            cluster=(config.ctas, 1, 1) if config.ctas > 1 else None,
            block=(config.threads, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _atoms(self, shape: Shape, loaded, stored):
        """TMA atoms with their tensors, in the order of `_atom_names`."""
        config, (q_ptr, k_ptr, v_ptr, dout_ptr), (dk_ptr, dv_ptr) = self.config, loaded, stored
        layouts = self._layouts()
        query_tile = (config.tile_m, config.query_columns)
        gradient_tile = (config.tile_m, config.gradient_columns)
        key_tile = (KEYS_PER_WARPGROUP, config.head_dim)
        value_tile = (KEYS_PER_WARPGROUP, config.head_dim_v)
        g2s, s2g = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()
        queries_g2s = cpasync.CopyBulkTensorTileG2SMulticastOp() if config.ctas > 1 else g2s

        def tma(op, tensor, name, tile):
            layout = cute.slice_(layouts[name], (None, None, 0))
            return tuple(cpasync.make_tiled_tma_atom(op, tensor, layout, tile))

        def values(pointer):
            layout = cute.select(shape.values(pointer).layout, [1, 0, 2, 3])
            return cute.make_tensor(pointer, layout)

        atoms = {
            "q": tma(queries_g2s, shape.queries(q_ptr), "sQ", query_tile),
            "k": tma(g2s, shape.keys(k_ptr), "sK", key_tile),
            "v": tma(g2s, values(v_ptr), "sV", value_tile),
            "do": tma(queries_g2s, shape.outputs(dout_ptr), "sdO", gradient_tile),
            "dk": tma(s2g, shape.keys(dk_ptr), *self._dk_stage()),
            "dv": tma(s2g, values(dv_ptr), "sV", value_tile),
        }
        if config.ctas > 1:
            tile = (KEYS_PER_WARPGROUP, config.head_dim // config.ctas)
            atoms["other_k"] = tma(g2s, shape.keys(k_ptr), "sOtherK", tile)
        return tuple(atoms[name] for name in self._atom_names())

    def _atom_names(self) -> tuple[str, ...]:
        return ("q", "k", *(("other_k",) if self.config.ctas > 1 else ()), "v", "do", "dk", "dv")

    def _layouts(self) -> dict[str, cute.ComposedLayout]:
        """Of shared memory."""
        return memory.smem_layouts(self.config, self.dtype)

    def _dk_stage(self) -> tuple[str, tuple[int, int]]:
        """Where dK leaves from, and the tile of one store."""
        return "sK", (KEYS_PER_WARPGROUP, self.config.head_dim)

    def _order(
        self, shape: Shape, sm_count: Int32, is_cut: Boolean
    ) -> tuple[LongestFirst, tuple[Int32, ...]]:
        """How tiles are handed out, and what `turns.order` says of it where CTAs take turns."""
        scheduler = self._scheduler(shape, sm_count, is_cut)
        if not self.config.ordered:
            return scheduler, ()
        scheduler, upwards = turns.order(scheduler, shape, sm_count, self.config)
        return scheduler, (upwards,)

    def _scheduler(self, shape: Shape, sm_count: Int32, is_cut: Boolean) -> LongestFirst:
        """Blocks of keys, in groups of KV heads whose queries and dQ stay in L2 together.

        Groups are larger where heads share keys and a mask cuts tiles: tiles are long then, and
        those of a small last group, the longest among them, would begin when others end.
        """
        config = self.config
        bytes_per_row = (shape.head_dim + shape.head_dim_v) * (self.dtype.width // 8)
        bytes_per_row += config.head_dim * _DQ_BYTES
        bytes_per_head = Int64(shape.seqlen_q) * shape.ratio * bytes_per_row
        heads = shape.heads_kv * shape.batch
        heads_per_group = LongestFirst.heads_that_fit_l2(heads, 1, bytes_per_head)
        at_least = select_((shape.ratio > 1) & is_cut, min(heads, _HEADS_OF_LONG_TILES), Int32(1))
        heads_per_group = max(heads_per_group, at_least)
        blocks = cute.ceil_div(shape.seqlen_k, config.tile_n * config.ctas)
        return LongestFirst(blocks, shape.heads_kv, shape.batch, heads_per_group)

    def _bounded(self, bounds, band) -> Bounded | None:
        """What the roles of a bounded kernel know beside the usual."""
        return None

    def _queries(self, band, bounds, key, batch):
        """The blocks of queries that see a CTA's keys, or a pair's, of which `key` is the first."""
        return query_range(band, key, self.config.tile_m, self.config.ctas * self.config.tile_n)

    def _scale_log2(self, scale, bounds):
        """What scores are multiplied by in an exponent of two."""
        return scale * LOG2_E

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, ...],
        atoms: tuple[tuple[cute.CopyAtom, cute.Tensor], ...],
        rows: tuple[cute.Pointer, cute.Pointer, cute.Pointer, cute.Pointer],
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        divisors: tuple[cute.FastDivmodDivisor, ...],  # of `LongestFirst`
        numbers: tuple,  # query heads, those a KV head, scale, and what `turns.order` adds
        bounds: tuple,  # of bounded kernels
    ):
        config = self.config
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            for atom in atoms:
                cpasync.prefetch_descriptor(atom[0])

        table, layouts = self.mbarrier_table(config), self._layouts()
        count = mbarriers.count(table)
        storage = SmemAllocator().allocate(
            memory.shared_storage(config, self.dtype, count, layouts)
        )
        barriers = mbarriers.allocate(table, storage.barriers.data_ptr())
        visible = Band(*band)
        scheduler = LongestFirst(*tiles, divisors)
        cta, rank = cute.arch.block_idx()[0], Int32(0)
        if cutlass.const_expr(config.ctas > 1):
            rank = cute.arch.block_idx_in_cluster()
            cta = cta // config.ctas
        block, head_kv, batch = scheduler.decode(cta)
        heads_q, ratio, scale = numbers[:3]
        upwards = numbers[3] if config.ordered else None
        # The first keys are seen by the most queries: theirs are the longest tiles.
        from_end, block = block, scheduler.row_blocks - 1 - block
        if cutlass.const_expr(config.ordered):
            block = select_(upwards == 1, from_end, block)
        keys = config.ctas * config.tile_n
        bounded = self._bounded(bounds, visible)
        context = Context(
            config=config,
            dtype=self.dtype,
            tiled_mma_s=tiled_mmas[0],
            tiled_mma_kv=tiled_mmas[1],
            tiled_mma_q=tiled_mmas[2],
            barriers=barriers,
            shared=memory.shared_tensors(config, storage, layouts),
            gmem=GlobalTensors(
                **dict(zip(self._atom_names(), atoms, strict=True)),
                **dict(zip(_ROWS, rows, strict=True)),
            ),
            band=visible,
            queries=self._queries(visible, bounded, block * keys, batch),
            position=Position(
                key_block=block * config.ctas + rank, rank=rank, head_kv=head_kv, batch=batch
            ),
            heads_q=heads_q,
            ratio=ratio,
            rows_padded=cute.ceil_div(visible.seqlen_q, ROWS_PADDED_TO) * ROWS_PADDED_TO,
            scale=scale,
            scale_log2=self._scale_log2(scale, bounds),
            upwards=upwards,
            tiled_mma_v=tiled_mmas[3] if len(tiled_mmas) > 3 else None,
            bounded=bounded,
        )
        if warp == 0:
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
        cute.arch.mbarrier_init_fence()
        if cutlass.const_expr(config.ctas > 1):
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()
        self.roles(context, warp)
        if cutlass.const_expr(config.ctas > 1):
            # The other CTA may still send to this one's shared memory, or tell that it has read.
            # Relaxed, since nothing is read after it: a release would wait for all additions.
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
