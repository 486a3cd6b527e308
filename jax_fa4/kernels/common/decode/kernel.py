"""Decoding: O = softmax(scale * Q K^T, within the band) V of a few queries against a cache.

    a CTA: one part of the keys of one KV head of one sequence, 16, 32 or 64 rows of queries
    a row: query i of the Sq new ones and head g of the G that share the KV head, r = i G + g
    a warp: 16 rows; those with the same keys are a team of 1, 2 or 4 and share a ring
    team n of N: blocks of 16 keys n, n + N, n + 2 N, ... of the part

    TMA --> K, V of a block --> ldmatrix --> S = Q K^T (16 x 16) --> softmax --> O += P V
            ring of the team                 mma.sync, float32      registers   mma.sync

Teams share nothing until their last block: no barrier of the CTA in the loop. A warp alone fills a
stage again when it has read it; of several one does, a block later, when all have. At the end
the teams' maxima, sums and O of a row are merged through shared memory, and written: the
result, where the sequence has one part; else the part's own out and lse, which `combine` merges.
More than 64 rows are further CTAs (y), which find K and V in L2.

The cache is pages of `page_size` rows and a table of them; a contiguous one is a page for each
sequence. A block is a box of 16 rows of one page, and what TMA reads outside the cache is zero.

Roofline: memory, at 2 (D + Dv) bytes a key and KV head. Batch 8, 32768 keys, 8 KV heads, D = 128:
1.07 GB, 0.36 ms at the 3.0 TB/s that a copy reaches on one H100. A block of 8 KiB takes a
multiprocessor 610 cycles of that bandwidth, and about 100 of the tensor and load units.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.common.decode import finish, walk
from jax_fa4.kernels.common.decode.config import KEYS, ROWS, WARPS, DecodeConfig
from jax_fa4.kernels.common.decode.context import Arrays, Cache, Context, Queries, Team
from jax_fa4.kernels.common.decode.parts import parts_of
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES
from jax_fa4.variants.variant import DecodeVariant


class Decode:
    """One compiled decoding kernel; see the module's docstring."""

    def __init__(self, variant: DecodeVariant):
        self.config = DecodeConfig(variant.head_dim, variant.head_dim_v)
        self.dtype = ELEMENT_TYPES[variant.dtype]

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        page_table_ptr: cute.Pointer,
        lengths_ptr: cute.Pointer,
        sinks_ptr: cute.Pointer,
        out_ptr: cute.Pointer,
        lse_ptr: cute.Pointer,
        out_partial_ptr: cute.Pointer,
        lse_partial_ptr: cute.Pointer,
        batch: Int32,
        seqlen_q: Int32,
        heads_q: Int32,
        heads_kv: Int32,
        head_dim: Int32,
        head_dim_v: Int32,
        num_pages: Int32,
        page_size: Int32,
        pages_per_sequence: Int32,
        num_splits: Int32,
        softmax_scale: Float32,
        softcap: Float32,
        band_lower: Int32,
        band_upper: Int32,
        stream: cuda.CUstream,
    ):
        """Launch: CTA x is the part of the keys, y (KV head, tile of rows), z the sequence."""
        c = self.config
        rows = seqlen_q * (heads_q // heads_kv)
        team = _team_size(rows)
        tiles = cute.ceil_div(rows, team * ROWS)
        box_k, box_v = (KEYS, c.head_dim), (KEYS, c.head_dim_v)
        mK = _pages(k_ptr, num_pages, page_size, heads_kv, head_dim)
        mV = _pages(v_ptr, num_pages, page_size, heads_kv, head_dim_v)
        layout_k, layout_v = self._layouts()
        load, one = cpasync.CopyBulkTensorTileG2SOp(), (None, None, 0)
        tma_k = cpasync.make_tiled_tma_atom(load, mK, cute.slice_(layout_k, one), box_k)
        tma_v = cpasync.make_tiled_tma_atom(load, mV, cute.slice_(layout_v, one), box_v)
        self.kernel(
            tuple(tma_k),
            tuple(tma_v),
            (q_ptr, page_table_ptr, lengths_ptr, sinks_ptr),
            (out_ptr, lse_ptr, out_partial_ptr, lse_partial_ptr),
            (batch, seqlen_q, heads_q, heads_kv, head_dim, head_dim_v),
            (num_pages, page_size, pages_per_sequence),
            (tiles, num_splits, team),
            (softmax_scale, softcap),
            (band_lower, band_upper),
        ).launch(
            grid=(num_splits, heads_kv * tiles, batch),
            block=(c.threads, 1, 1),
            stream=stream,
        )

    def _layouts(self):
        """Rings of all warps: (rows of keys, columns, stage), swizzled panels of 64 columns."""
        c = self.config
        stages = WARPS * c.stages

        def ring(columns: int):
            tile = (64, KEYS, columns)
            return hopper.make_smem_layout_b(LayoutEnum.ROW_MAJOR, tile, self.dtype, stages)

        return ring(c.head_dim), ring(c.head_dim_v)

    def _storage(self, layout_k, layout_v):
        def ring(layout):
            return cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(layout)], 1024]

        @cute.struct
        class Storage:
            full: cute.struct.MemRange[Int64, WARPS * self.config.stages]
            empty: cute.struct.MemRange[Int64, WARPS * self.config.stages]
            peaks: cute.struct.MemRange[Float32, WARPS * ROWS]
            totals: cute.struct.MemRange[Float32, WARPS * ROWS]
            sK: ring(layout_k)
            sV: ring(layout_v)

        return Storage

    @cute.kernel
    def kernel(
        self,
        k: tuple[cute.CopyAtom, cute.Tensor],
        v: tuple[cute.CopyAtom, cute.Tensor],
        inputs: tuple[cute.Pointer, ...],
        results: tuple[cute.Pointer, ...],
        lengths: tuple[Int32, ...],
        pages: tuple[Int32, Int32, Int32],
        work: tuple[Int32, Int32, Int32],
        scales: tuple[Float32, Float32],
        band: tuple[Int32, Int32],
    ):
        c = self.config
        q_ptr, page_table, lengths_ptr, sinks = inputs
        batch, seqlen_q, heads_q, heads_kv, head_dim, head_dim_v = lengths
        num_pages, page_size, pages_per_sequence = pages
        tiles, num_splits, team_size = work
        split, unit, sequence = cute.arch.block_idx()
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        head_kv, tile = unit // tiles, unit % tiles
        length = cute.make_tensor(lengths_ptr + sequence, cute.make_layout(1))[0]
        capacity = page_size * pages_per_sequence
        parts = parts_of(length, capacity, seqlen_q, band, num_splits)
        used = parts.used

        # An empty part ends here; of an empty sequence the first one writes the result.
        if (split < used) | (split == 0):
            layout_k, layout_v = self._layouts()
            storage = SmemAllocator().allocate(self._storage(layout_k, layout_v))
            full, empty = storage.full.data_ptr(), storage.empty.data_ptr()
            if thread == 0:
                for i in cutlass.range_constexpr(WARPS * c.stages):
                    cute.arch.mbarrier_init(full + i, 1)
                    cute.arch.mbarrier_init(empty + i, team_size)
            cute.arch.mbarrier_init_fence()
            cute.arch.sync_threads()
            context = Context(
                config=c,
                dtype=self.dtype,
                warp=warp,
                lane=thread % 32,
                team=Team.of(warp, team_size, c.stages),
                full=full,
                empty=empty,
                sK=storage.sK.get_tensor(layout_k.outer, swizzle=layout_k.inner),
                sV=storage.sV.get_tensor(layout_v.outer, swizzle=layout_v.inner),
                ring_k=storage.sK.data_ptr(),
                ring_v=storage.sV.data_ptr(),
                peaks=storage.peaks.data_ptr(),
                totals=storage.totals.data_ptr(),
                cache=Cache(
                    k, v, page_table + Int64(sequence) * pages_per_sequence, num_pages, page_size
                ),
                queries=Queries(
                    q_ptr,
                    sequence,
                    head_kv,
                    tile * team_size * ROWS,
                    seqlen_q,
                    heads_q,
                    heads_q // heads_kv,
                    head_dim,
                ),
                parts=parts,
                band=band,
                softmax_scale=scales[0],
                softcap=scales[1],
            )
            first = parts.first_block + split * parts.blocks_of_part
            end = cutlass.min(first + parts.blocks_of_part, parts.end_block)
            sums, peaks, totals = walk.run(context, first, end)
            arrays = Arrays(*results, sinks, batch, head_dim_v)
            finish.run(context, arrays, (sums, peaks, totals), split, used)


def _team_size(rows):
    """Warps that share what they read: as many as have rows, of 1, 2 and 4."""
    tiles = cute.ceil_div(rows, ROWS)
    return cutlass.min(tiles, Int32(2)) * cutlass.min(cutlass.max(tiles - 1, Int32(1)), Int32(2))


def _pages(pointer, num_pages, page_size, heads, head_dim):
    """(num_pages, page_size, heads, head_dim) as (page_size, head_dim, heads, num_pages)."""
    row = Int64(heads) * head_dim
    layout = cute.make_layout(
        (page_size, head_dim, heads, num_pages), stride=(row, 1, Int64(head_dim), row * page_size)
    )
    return cute.make_tensor(pointer, layout)
