"""The Hopper backward of wide heads: dK and dV of a block of keys, and its share of every dQ.

    P = exp2(scale log2(e) Q K^T - lse_log2)      dP = dO V^T      dS = P (dP - delta)
    dV = sum over queries of P^T dO     dK = scale sum dS^T Q     dQ += dS K, scaled afterwards

dK and dV of 64 keys fill half of an SM's registers at head dim 256, and with 64 keys a CTA all the
dQ would be twice what L2 can add. So two CTAs, with 64 keys each, exchange their dS: each makes
half of the columns of dQ, over the keys of both.

    warp 12 --TMA--> sK, sV, and half of the columns of the other CTA's K, once
            --TMA--> sQ, sdO, in halves of their columns, rank r the half r of both CTAs
            --bulk-> lse_log2, delta
    values  (warps 0-3)    S^T = K Q^T     P --> sdS      dV += P^T dO
    keys    (warps 4-7)    dP^T = V dO^T   P <-- sdS      dS --> sdS, here and there   dK += dS^T Q
    queries (warps 8-11)   dQ = dS K       to dq_accum by vector reductions

| barrier | stages    | full                          | empty                                  |
| kv      | 3         | TMA, 1 arrival + bytes        | never: K, V, other's K, once a CTA     |
| q       | q_stages  | TMA of half a Q, lse_log2     | values' and keys' warps: S, dK read it |
| do      | do_stages | TMA of half a dO, delta       | both warpgroups: dP and dV read it     |
| ready   | 2         | other CTA's loader, of q, do  | never: it is no further ahead          |
| p       | ds_stages | values' warps: P is written   | (ds)                                   |
| ds      | ds_stages | keys' warps, other's 8 KiB    | queries' warps of both CTAs            |

A pair owns a block of 128 keys of one KV head, and walks the blocks of queries that see it of all
the group's query heads: dK and dV stay in registers, without any expansion to query heads. A CTA
whose keys are all past the end takes part: they are hidden.
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

from jax_fa4.kernels.sm90.backward_pair import keys as keys_role
from jax_fa4.kernels.sm90.backward_pair import load, products
from jax_fa4.kernels.sm90.backward_pair import queries as queries_role
from jax_fa4.kernels.sm90.backward_pair import values as values_role
from jax_fa4.kernels.sm90.backward_pair.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward_pair.config import (
    PAIR,
    PAIR_CONFIGS,
    TILE_M,
    TILE_N,
    PairConfig,
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
    """Tiles in shared memory; the last mode is the stage."""

    sK: cute.Tensor  # (64, head_dim, 1)
    sV: cute.Tensor  # (64, head_dim, 1)
    sOtherK: cute.Tensor  # (64, head_dim / 2, 1)
    sQ: cute.Tensor  # (64, head_dim / 2, q_stages)
    sdO: cute.Tensor  # (64, head_dim / 2, do_stages)
    sdS: cute.Tensor  # (64, 64, 2 * ds_stages): keys by queries, this CTA's and the other's
    sLSE: cute.Tensor  # (64 * q_stages)
    sDelta: cute.Tensor  # (64 * do_stages)


@dataclass(frozen=True)
class Position:
    """What this CTA works on."""

    key_block: Int32  # of 64 keys
    rank: Int32  # in the pair
    head_kv: Int32
    batch: Int32


@dataclass(frozen=True)
class Context:
    """What every role knows: static facts and handles, nothing that changes."""

    config: PairConfig
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


class BackwardPairSm90:
    """One compiled backward kernel for Hopper; see the module's docstring."""

    def __init__(self, variant: BackwardVariant):
        self.config = PAIR_CONFIGS[variant.head_dim]
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
        half, key_tile = (TILE_M, config.half), (TILE_N, config.head_dim)
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
            tma(to_both, shape.queries(q_ptr), "sQ", half),
            tma(g2s, shape.keys(k_ptr), "sK", key_tile),
            tma(g2s, shape.keys(k_ptr), "sOtherK", (TILE_N, config.half)),
            tma(g2s, values(v_ptr), "sV", key_tile),
            tma(to_both, shape.outputs(dout_ptr), "sdO", half),
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
        pairs = cute.ceil_div(shape.seqlen_k, TILE_N * PAIR)
        return LongestFirst(pairs, shape.heads_kv, shape.batch, heads_per_group)

    def _smem_layouts(self) -> dict[str, cute.ComposedLayout]:
        """Swizzled, a tile's rows as operands read them; made anew on each side of the launch."""
        c = self.config

        def rows(count, columns, stages):
            shape = (count, count, columns)
            return hopper.make_smem_layout_a(LayoutEnum.ROW_MAJOR, shape, self.dtype, stages)

        return {
            "sK": rows(TILE_N, c.head_dim, 1),
            "sV": rows(TILE_N, c.head_dim, 1),
            "sOtherK": rows(TILE_N, c.half, 1),
            "sQ": rows(TILE_M, c.half, c.q_stages),
            "sdO": rows(TILE_M, c.half, c.do_stages),
            "sdS": rows(TILE_N, TILE_M, PAIR * c.ds_stages),
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
            queries=query_range(visible, pair * (PAIR * TILE_N), TILE_M, PAIR * TILE_N),
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

        # ---- values: P and dV
        if warp < 4:
            cute.arch.setmaxregister_increase(config.value_registers)
            values_role.run(context)

        # ---- keys: dS and dK
        if (warp >= 4) & (warp < 8):
            cute.arch.setmaxregister_increase(config.key_registers)
            keys_role.run(context)

        # ---- queries: dQ
        if (warp >= 8) & (warp < 12):
            cute.arch.setmaxregister_decrease(config.query_registers)
            queries_role.run(context)

        # ---- loads, by one warp
        if warp >= 12:
            cute.arch.setmaxregister_decrease(config.load_registers)
            if warp == 12:
                load.run(context)

        # The other CTA may still send to this one's shared memory, or tell that it has read.
        # Relaxed, since nothing is read after it: a release would wait for all additions to dQ.
        cute.arch.cluster_arrive_relaxed()
        cute.arch.cluster_wait()
