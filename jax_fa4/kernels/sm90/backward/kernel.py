"""The Hopper backward: dK and dV of a block of keys, and its share of every dQ.

    P = exp2(scale log2(e) Q K^T - lse_log2)      dP = dO V^T      dS = P (dP - delta)
    dV = sum over queries of P^T dO     dK = scale sum dS^T Q     dQ += dS K, scaled afterwards

    warp 0 --TMA--> sK, sV, once
           --TMA--> sQ, lse_log2 --+--> consumer warpgroups 0 and 1, 64 keys each
           --TMA--> sdO, delta   --+      S^T = K Q^T, dP^T = V dO^T    from shared memory
                                   |      dV += P^T dO, dK += dS^T Q    A from registers
                                   |      dK, dV --> sK, sV --TMA-->    at the end
                                   |      dS --> sdS
                                   +--> queries' warpgroup, warp 0 of which loads
                                          dQ = dS K                     from shared memory
                                          dQ to dq_accum                by vector reductions

| barrier | stages    | full                        | empty                                 |
| kv      | 2         | TMA, 1 arrival + bytes      | never: K, then V, once a CTA          |
| q       | stages    | TMA of Q, bulk of lse_log2  | every consumer warp, dK has read Q    |
| do      | stages    | TMA of dO, bulk of delta    | every consumer warp, dV has read dO   |
| ds      | ds_stages | every consumer warp, fenced | the queries' 4 warps, dQ has read dS  |

A CTA owns one block of keys of one KV head, and walks the blocks of queries that see it of all the
group's query heads: dK and dV stay in registers, without any expansion to query heads.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
from dataclasses import dataclass

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward import consumer, products, turns
from jax_fa4.kernels.sm90.backward import queries as queries_role
from jax_fa4.kernels.sm90.backward.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP, BackwardConfig, config_of
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.query_range import QueryRange, query_range
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant

ROWS_PADDED_TO = 128  # rows of lse_log2, delta and dq_accum a (batch, head)
_DQ_BYTES = 4


@dataclass(frozen=True)
class GlobalTensors:
    """TMA atoms with the tensors that they address, (seqlen, head_dim, heads, batch)."""

    q: tuple[cute.CopyAtom, cute.Tensor]
    k: tuple[cute.CopyAtom, cute.Tensor]
    v: tuple[cute.CopyAtom, cute.Tensor]
    do: tuple[cute.CopyAtom, cute.Tensor]
    dk: tuple[cute.CopyAtom, cute.Tensor]
    dv: tuple[cute.CopyAtom, cute.Tensor]
    lse_log2: cute.Pointer  # (batch, heads_q, rows_padded)
    delta: cute.Pointer  # likewise
    dq_accum: cute.Pointer  # (batch, heads_q, rows_padded * head_dim), in panels
    semaphores: cute.Pointer  # (batch, heads_q, rows_padded / 64)


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory; the last mode is the consumer, the stage, or both."""

    sK: cute.Tensor  # (64, head_dim, consumers)
    sV: cute.Tensor  # (64, head_dim, consumers)
    sQ: cute.Tensor  # (tile_m, head_dim, stages)
    sdO: cute.Tensor  # (tile_m, head_dim, stages)
    sdS: cute.Tensor  # (64, tile_m, consumers * stages): keys by queries
    sLSE: cute.Tensor  # (tile_m * stages)
    sDelta: cute.Tensor  # (tile_m * stages)


@dataclass(frozen=True)
class Position:
    """What this CTA works on."""

    key_block: Int32
    head_kv: Int32
    batch: Int32


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: BackwardConfig
    dtype: type[cutlass.Numeric]
    tiled_mma_s: cute.TiledMma
    tiled_mma_kv: cute.TiledMma
    tiled_mma_q: cute.TiledMma
    barriers: dict[str, mbarriers.MbarrierArray]
    shared: SharedTensors
    gmem: GlobalTensors
    band: Band
    queries: QueryRange
    position: Position
    heads_q: Int32
    ratio: Int32  # query heads a KV head
    rows_padded: Int32
    scale: Float32
    scale_log2: Float32


class BackwardSm90:
    """One compiled backward kernel for Hopper; see the module's docstring."""

    def __init__(self, variant: BackwardVariant):
        self.config = config_of(variant)
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
        config = self.config
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        layouts = self._smem_layouts()
        query_tile = (config.tile_m, config.head_dim)
        key_tile = (KEYS_PER_WARPGROUP, config.head_dim)
        g2s, s2g = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()

        def tma(op, tensor, layout, tile):
            return tuple(
                cpasync.make_tiled_tma_atom(op, tensor, cute.slice_(layout, (None, None, 0)), tile)
            )

        def values(pointer):
            layout = cute.select(shape.values(pointer).layout, [1, 0, 2, 3])
            return cute.make_tensor(pointer, layout)

        scheduler = self._scheduler(shape)
        self.kernel(
            products.make_tiled_mmas(config, self.dtype),
            tma(g2s, shape.queries(q_ptr), layouts["sQ"], query_tile),
            tma(g2s, shape.keys(k_ptr), layouts["sK"], key_tile),
            tma(g2s, values(v_ptr), layouts["sV"], key_tile),
            tma(g2s, shape.outputs(dout_ptr), layouts["sdO"], query_tile),
            tma(s2g, shape.keys(dk_ptr), layouts["sK"], key_tile),
            tma(s2g, values(dv_ptr), layouts["sV"], key_tile),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr, semaphores_ptr),
            (band_lower, band_upper, seqlen_q, seqlen_k),
            (scheduler.row_blocks, heads_kv, batch, scheduler.heads_per_group),
            (heads_q, shape.ratio, softmax_scale),
        ).launch(
            grid=(scheduler.tiles(), 1, 1),
            block=(config.threads, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _scheduler(self, shape: Shape) -> LongestFirst:
        """Blocks of keys, in groups of KV heads whose queries and dQ stay in L2 together."""
        bytes_per_row = (shape.head_dim + shape.head_dim_v) * (self.dtype.width // 8)
        bytes_per_row += self.config.head_dim * _DQ_BYTES
        bytes_per_head = Int64(shape.seqlen_q) * shape.ratio * bytes_per_row
        heads_per_group = LongestFirst.heads_that_fit_l2(
            shape.heads_kv * shape.batch, 1, bytes_per_head
        )
        blocks = cute.ceil_div(shape.seqlen_k, self.config.tile_n)
        return LongestFirst(blocks, shape.heads_kv, shape.batch, heads_per_group)

    def _smem_layouts(self) -> dict[str, cute.ComposedLayout]:
        """Swizzled, a tile's rows as operands read them; made anew on each side of the launch."""
        c = self.config

        def rows(count, columns, stages):
            shape = (count, count, columns)
            return hopper.make_smem_layout_a(LayoutEnum.ROW_MAJOR, shape, self.dtype, stages)

        return {
            "sK": rows(KEYS_PER_WARPGROUP, c.head_dim, c.consumers),
            "sV": rows(KEYS_PER_WARPGROUP, c.head_dim, c.consumers),
            "sQ": rows(c.tile_m, c.head_dim, c.stages),
            "sdO": rows(c.tile_m, c.head_dim, c.stages),
            "sdS": rows(KEYS_PER_WARPGROUP, c.tile_m, c.consumers * c.ds_stages),
        }

    def _shared_storage(self, layouts):
        """The memory map: barriers and rows, then tiles on 1024-byte boundaries for the swizzle."""
        c = self.config
        count = mbarriers.count(mbarrier_table(c))

        def tile(name):
            return cute.struct.Align[
                cute.struct.MemRange[self.dtype, cute.cosize(layouts[name])], 1024
            ]

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, count]
            sLSE: cute.struct.Align[cute.struct.MemRange[Float32, c.stages * c.tile_m], 128]
            sDelta: cute.struct.Align[cute.struct.MemRange[Float32, c.stages * c.tile_m], 128]
            sK: tile("sK")
            sV: tile("sV")
            sQ: tile("sQ")
            sdO: tile("sdO")
            sdS: tile("sdS")

        return SharedStorage

    def _shared_tensors(self, storage, layouts) -> SharedTensors:
        def tensor(name):
            layout = layouts[name]
            return getattr(storage, name).get_tensor(layout.outer, swizzle=layout.inner)

        rows = cute.make_layout(self.config.stages * self.config.tile_m)
        return SharedTensors(
            **{name: tensor(name) for name in layouts},
            sLSE=storage.sLSE.get_tensor(rows),
            sDelta=storage.sDelta.get_tensor(rows),
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma],
        q: tuple[cute.CopyAtom, cute.Tensor],
        k: tuple[cute.CopyAtom, cute.Tensor],
        v: tuple[cute.CopyAtom, cute.Tensor],
        do: tuple[cute.CopyAtom, cute.Tensor],
        dk: tuple[cute.CopyAtom, cute.Tensor],
        dv: tuple[cute.CopyAtom, cute.Tensor],
        rows: tuple[cute.Pointer, cute.Pointer, cute.Pointer, cute.Pointer],
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        numbers: tuple[Int32, Int32, Float32],
    ):
        config = self.config
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            for atom in (q[0], k[0], v[0], do[0], dk[0], dv[0]):
                cpasync.prefetch_descriptor(atom)

        layouts = self._smem_layouts()
        storage = SmemAllocator().allocate(self._shared_storage(layouts))
        barriers = mbarriers.allocate(mbarrier_table(config), storage.barriers.data_ptr())
        scheduler = LongestFirst(*tiles)
        block, head_kv, batch = scheduler.decode(cute.arch.block_idx()[0])
        # The first keys are seen by the most queries: theirs are the longest tiles. They come last
        # where additions have an order, for which see turns.py.
        key_block = block if config.turn_warps > 0 else scheduler.row_blocks - 1 - block
        visible = Band(*band)
        queries = query_range(visible, key_block * config.tile_n, config.tile_m, config.tile_n)
        heads_q, ratio, scale = numbers
        context = Context(
            config=config,
            dtype=self.dtype,
            tiled_mma_s=tiled_mmas[0],
            tiled_mma_kv=tiled_mmas[1],
            tiled_mma_q=tiled_mmas[2],
            barriers=barriers,
            shared=self._shared_tensors(storage, layouts),
            gmem=GlobalTensors(q, k, v, do, dk, dv, *rows),
            band=visible,
            queries=queries,
            position=Position(key_block, head_kv, batch),
            heads_q=heads_q,
            ratio=ratio,
            rows_padded=cute.ceil_div(visible.seqlen_q, ROWS_PADDED_TO) * ROWS_PADDED_TO,
            scale=scale,
            scale_log2=scale * LOG2_E,
        )
        if warp == 0:
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        # ---- queries: dQ, and warp 0 loads
        if warp < 4:
            cute.arch.setmaxregister_decrease(config.query_registers)
            queries_role.run(context, warp)

        # ---- consumers: dK and dV, 64 keys a warpgroup
        is_consumer = warp >= 4
        # NOTES: at head dim 64 without need: what ptxas makes of it is faster, at 128 slower.
        if cutlass.const_expr(config.turn_warps > 0 or config.head_dim <= 64):
            is_consumer = is_consumer & (warp < 4 + 4 * config.consumers)
        if is_consumer:
            cute.arch.setmaxregister_increase(config.consumer_registers)
            consumer.run(context, warp // 4 - 1)

        # ---- turns: the order of dQ's additions
        if cutlass.const_expr(config.turn_warps > 0):  # noqa: SIM102
            if warp >= 4 + 4 * config.consumers:
                cute.arch.setmaxregister_decrease(config.turn_registers)
                turns.run(context, warp - 4 - 4 * config.consumers)
