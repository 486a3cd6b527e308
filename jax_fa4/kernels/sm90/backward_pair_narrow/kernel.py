"""The Hopper backward in pairs of CTAs: dK and dV of a block of keys, and its share of every dQ.

    P = exp2(scale log2(e) Q K^T - lse_log2)      dP = dO V^T      dS = P (dP - delta)
    dV = sum over queries of P^T dO     dK = scale sum dS^T Q     dQ += dS K, scaled afterwards

As sm90/backward/kernel.py, but two CTAs, with 128 keys each, exchange their dS: each makes half of
the columns of dQ, over the keys of both, so that half as much is added to global memory. They walk
the same queries, and load them for each other.

    warp 0 --TMA--> sK, sV, and half of the columns of the other CTA's K, once
           --TMA--> sQ (rank 0), sdO (rank 1) of both CTAs; lse_log2, delta
    consumers (warps 4-11, 64 keys a warpgroup)
                    S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
                    dS --> sdS, here and there
    queries (warps 0-3)
                    dQ = dS K to dq_accum by vector reductions

| barrier | stages    | full                          | empty                                 |
| kv      | 3         | TMA, 1 arrival + bytes        | never: K, V, other's K, once a CTA    |
| q       | q_stages  | TMA of Q, bulk of lse_log2    | consumer warps, dK has read Q         |
| do      | do_stages | TMA of dO, bulk of delta      | consumer warps, dV has read dO        |
| freed   | as q, do  | other CTA's consumer warps    | never: it is what the loader waits for |
| ds      | ds_stages | consumer warps, other's bytes | queries' warps of both CTAs           |

A pair owns a block of 256 keys of one KV head, and walks the blocks of queries that see it of all
the group's query heads. A CTA whose keys are all past the end takes part: they are hidden.
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

from jax_fa4.kernels.sm90.backward import products
from jax_fa4.kernels.sm90.backward_pair_narrow import consumer
from jax_fa4.kernels.sm90.backward_pair_narrow import queries as queries_role
from jax_fa4.kernels.sm90.backward_pair_narrow.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward_pair_narrow.config import (
    KEYS_PER_WARPGROUP,
    NARROW_CONFIGS,
    PAIR,
    TILE_M,
    NarrowConfig,
)
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
    other_k: tuple[cute.CopyAtom, cute.Tensor]
    v: tuple[cute.CopyAtom, cute.Tensor]
    do: tuple[cute.CopyAtom, cute.Tensor]
    dk: tuple[cute.CopyAtom, cute.Tensor]
    dv: tuple[cute.CopyAtom, cute.Tensor]
    lse_log2: cute.Pointer  # (batch, heads_q, rows_padded)
    delta: cute.Pointer  # likewise
    dq_accum: cute.Pointer  # (batch, heads_q, rows_padded * head_dim), in panels


@dataclass(frozen=True)
class SharedTensors:
    """Tiles in shared memory; the last mode is the consumer, the stage, or both."""

    sK: cute.Tensor  # (64, head_dim, consumers)
    sV: cute.Tensor  # (64, head_dim, consumers)
    sOtherK: cute.Tensor  # (64, head_dim / 2, consumers)
    sQ: cute.Tensor  # (64, head_dim, q_stages)
    sdO: cute.Tensor  # (64, head_dim, do_stages)
    sdS: cute.Tensor  # (64, 64, 2 * consumers * ds_stages): keys by queries, ours and the other's
    sLSE: cute.Tensor  # (64 * q_stages)
    sDelta: cute.Tensor  # (64 * do_stages)


@dataclass(frozen=True)
class Position:
    """What this CTA works on."""

    key_block: Int32  # of 128 keys
    rank: Int32  # in the pair
    head_kv: Int32
    batch: Int32


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: NarrowConfig
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


class BackwardPairNarrowSm90:
    """One compiled backward kernel for Hopper; see the module's docstring."""

    def __init__(self, variant: BackwardVariant):
        self.config = NARROW_CONFIGS[variant.head_dim]
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
        query_tile = (TILE_M, config.head_dim)
        key_tile = (KEYS_PER_WARPGROUP, config.head_dim)
        g2s, s2g = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()
        to_both = cpasync.CopyBulkTensorTileG2SMulticastOp()

        def tma(op, tensor, name, tile):
            layout = cute.slice_(layouts[name], (None, None, 0))
            return tuple(cpasync.make_tiled_tma_atom(op, tensor, layout, tile))

        def values(pointer):
            layout = cute.select(shape.values(pointer).layout, [1, 0, 2, 3])
            return cute.make_tensor(pointer, layout)

        scheduler = self._scheduler(shape)
        self.kernel(
            products.make_tiled_mmas(config, self.dtype),
            tma(to_both, shape.queries(q_ptr), "sQ", query_tile),
            tma(g2s, shape.keys(k_ptr), "sK", key_tile),
            tma(g2s, shape.keys(k_ptr), "sOtherK", (KEYS_PER_WARPGROUP, config.half)),
            tma(g2s, values(v_ptr), "sV", key_tile),
            tma(to_both, shape.outputs(dout_ptr), "sdO", query_tile),
            tma(s2g, shape.keys(dk_ptr), "sK", key_tile),
            tma(s2g, values(dv_ptr), "sV", key_tile),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr),
            (band_lower, band_upper, seqlen_q, seqlen_k),
            (scheduler.row_blocks, heads_kv, batch, scheduler.heads_per_group),
            scheduler.make_divisors(),
            (heads_q, shape.ratio, softmax_scale),
        ).launch(
            grid=(scheduler.tiles() * PAIR, 1, 1),
            cluster=(PAIR, 1, 1),
            block=(config.threads, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _scheduler(self, shape: Shape) -> LongestFirst:
        """Pairs' keys, in groups of KV heads whose queries and dQ stay in L2 together."""
        bytes_per_row = (shape.head_dim + shape.head_dim_v) * (self.dtype.width // 8)
        bytes_per_row += self.config.head_dim * _DQ_BYTES
        bytes_per_head = Int64(shape.seqlen_q) * shape.ratio * bytes_per_row
        heads_per_group = LongestFirst.heads_that_fit_l2(
            shape.heads_kv * shape.batch, 1, bytes_per_head
        )
        pairs = cute.ceil_div(shape.seqlen_k, self.config.tile_n * PAIR)
        return LongestFirst(pairs, shape.heads_kv, shape.batch, heads_per_group)

    def _smem_layouts(self) -> dict[str, cute.ComposedLayout]:
        """Swizzled, a tile's rows as operands read them; made anew on each side of the launch."""
        c = self.config

        def rows(count, columns, stages):
            shape = (count, count, columns)
            return hopper.make_smem_layout_a(LayoutEnum.ROW_MAJOR, shape, self.dtype, stages)

        return {
            "sK": rows(KEYS_PER_WARPGROUP, c.head_dim, c.consumers),
            "sV": rows(KEYS_PER_WARPGROUP, c.head_dim, c.consumers),
            "sOtherK": rows(KEYS_PER_WARPGROUP, c.half, c.consumers),
            "sQ": rows(TILE_M, c.head_dim, c.q_stages),
            "sdO": rows(TILE_M, c.head_dim, c.do_stages),
            "sdS": rows(KEYS_PER_WARPGROUP, TILE_M, PAIR * c.consumers * c.ds_stages),
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
            sLSE: cute.struct.Align[cute.struct.MemRange[Float32, c.q_stages * TILE_M], 128]
            sDelta: cute.struct.Align[cute.struct.MemRange[Float32, c.do_stages * TILE_M], 128]
            sK: tile("sK")
            sV: tile("sV")
            sOtherK: tile("sOtherK")
            sQ: tile("sQ")
            sdO: tile("sdO")
            sdS: tile("sdS")

        return SharedStorage

    def _shared_tensors(self, storage, layouts) -> SharedTensors:
        c = self.config

        def tensor(name):
            layout = layouts[name]
            return getattr(storage, name).get_tensor(layout.outer, swizzle=layout.inner)

        return SharedTensors(
            **{name: tensor(name) for name in layouts},
            sLSE=storage.sLSE.get_tensor(cute.make_layout(c.q_stages * TILE_M)),
            sDelta=storage.sDelta.get_tensor(cute.make_layout(c.do_stages * TILE_M)),
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma],
        q: tuple[cute.CopyAtom, cute.Tensor],
        k: tuple[cute.CopyAtom, cute.Tensor],
        other_k: tuple[cute.CopyAtom, cute.Tensor],
        v: tuple[cute.CopyAtom, cute.Tensor],
        do: tuple[cute.CopyAtom, cute.Tensor],
        dk: tuple[cute.CopyAtom, cute.Tensor],
        dv: tuple[cute.CopyAtom, cute.Tensor],
        rows: tuple[cute.Pointer, cute.Pointer, cute.Pointer],
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        divisors: tuple[cute.FastDivmodDivisor, ...],  # of `LongestFirst`
        numbers: tuple[Int32, Int32, Float32],
    ):
        config = self.config
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            for atom in (q[0], k[0], other_k[0], v[0], do[0], dk[0], dv[0]):
                cpasync.prefetch_descriptor(atom)

        layouts = self._smem_layouts()
        storage = SmemAllocator().allocate(self._shared_storage(layouts))
        barriers = mbarriers.allocate(mbarrier_table(config), storage.barriers.data_ptr())
        scheduler = LongestFirst(*tiles, divisors)
        rank = cute.arch.block_idx_in_cluster()
        block, head_kv, batch = scheduler.decode(cute.arch.block_idx()[0] // PAIR)
        # The first keys are seen by the most queries: theirs are the longest tiles.
        pair = scheduler.row_blocks - 1 - block
        keys = PAIR * config.tile_n
        visible = Band(*band)
        heads_q, ratio, scale = numbers
        context = Context(
            config=config,
            dtype=self.dtype,
            tiled_mma_s=tiled_mmas[0],
            tiled_mma_kv=tiled_mmas[1],
            tiled_mma_q=tiled_mmas[2],
            barriers=barriers,
            shared=self._shared_tensors(storage, layouts),
            gmem=GlobalTensors(q, k, other_k, v, do, dk, dv, *rows),
            band=visible,
            queries=query_range(visible, pair * keys, TILE_M, keys),
            position=Position(pair * PAIR + rank, rank, head_kv, batch),
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
        cute.arch.cluster_arrive_relaxed()
        cute.arch.cluster_wait()

        # ---- queries: dQ, and warp 0 loads
        if warp < 4:
            cute.arch.setmaxregister_decrease(config.query_registers)
            queries_role.run(context, warp)

        # ---- consumers: dK and dV, 64 keys a warpgroup
        if warp >= 4:
            cute.arch.setmaxregister_increase(config.consumer_registers)
            consumer.run(context, warp // 4 - 1)

        # The other CTA may still send to this one's shared memory, or tell that it has read.
        # Relaxed, since nothing is read after it: a release would wait for all additions to dQ.
        cute.arch.cluster_arrive_relaxed()
        cute.arch.cluster_wait()
