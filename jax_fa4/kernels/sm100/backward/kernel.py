"""The Blackwell backward: dK and dV of a block of keys, and its share of dQ.

    P  = exp2(scale log2(e) S - lse log2(e)),  S = Q K^T within the band
    dV = P^T dO     dP = dO V^T     dS = P (dP - delta)     dK = scale dS^T Q     dQ = scale dS K

A CTA owns 128 keys of a KV head, and walks the blocks of 128 queries that see them, of every query
head of the group: dK and dV stay in tensor memory until the end. Scores are transposed, keys by
queries, so that P^T and dS^T are operands in tensor memory of the products that sum over queries.
What every block gives to dQ is added in float32 to `dq_accum`, without the scale; `reduce` says in
which order it lies there.

    load warp --TMA--> sK, sV   once
    load warp --TMA--> sQ[2], sdO, statistics -----------+
                                                          |
        MMA warp: S^T = K Q^T, dP^T = V dO^T --> tensor memory
                                                          |
        compute warpgroup h: queries 64 h ..: S^T to P^T, dP^T to dS^T --> tensor memory; sdS
                                                          |
        MMA warp: dV += P^T dO, dK += dS^T Q, dQ = dS K --> tensor memory
                                                          |
    dq_accum <-- bulk additions <-- staging <-- reduce warpgroup: dQ
    dK, dV <-- TMA <-- sQ[0], sdO[0] <-- compute, at the end

What the tensor core, compute and reduce do at a time, for visits t, t + 1 (`mma`):

    tensor   dV(t) | S(t+1) |  dK(t)  |  dQ(t)  |       | dP(t+1) | dV(t+1) | S(t+2) | dK(t+1) ...
    compute     dS(t)       | P(t+1) ...................|         | dS(t+1)          | P(t+2) ...
    reduce                                      | dQ(t) out, then to memory ...

| barrier     | stages    | a phase ends when                         | who waits              |
|-------------|-----------|-------------------------------------------|------------------------|
| k_full      | 1         | TMA: K                                    | MMA                    |
| v_full      | 1         | TMA: V                                    | MMA                    |
| q_full      | 2         | TMA: Q                                    | MMA                    |
| q_empty     | 2         | dK with it                                | load                   |
| do_full     | do_stages | TMA: dO                                   | MMA                    |
| do_empty    | do_stages | dV and dP^T with it                       | load                   |
| stats_full  | 2         | bulk copies: lse_log2 and delta           | compute                |
| stats_empty | 2         | 8 compute warps have read them            | load                   |
| s_full      | 1         | S^T                                       | compute                |
| p_ready     | 1         | 8 compute warps: P^T, and S^T was read    | MMA                    |
| dp_full     | 1         | dP^T, and, but at 64, dQ before it        | compute                |
| ds_ready    | 1         | 8 compute warps: dS^T, sdS; dP^T was read | MMA                    |
| dq_full     | 1         | dQ, so that sdS is free                   | reduce; at 64 compute  |
| dq_empty    | 1         | 4 reduce warps have read it               | MMA                    |
| dv_full     | 1         | the last product into dV                  | compute                |
| dk_full     | 1         | the last product of all                   | compute                |

Tensor memory: `config.TensorMemory`, with the reason for which each reuse is safe.

A CTA that no query sees visits one block, in which everything is masked, and writes zeros.

Roofline, head dim 128, cycles a tile of 128 x 128: the tensor core 5 x 512; shared memory, 128
bytes a cycle, 2 x 512 for S and dP, 2 x 256 for dV and dK, 512 for dQ, 256 for the store of dS and
2 x 512 for dQ's way out, 3328; exponentials 16 a cycle, 1024.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward import compute, load, mma, reduce
from jax_fa4.kernels.sm100.backward.config import (
    CHUNK,
    HALVES,
    LAUNCH_REGISTERS,
    Q_STAGES,
    TILE,
    TMEM_COLUMNS,
    config_of,
)
from jax_fa4.kernels.sm100.backward.context import (
    WARPS,
    Context,
    GlobalTensors,
    SharedLayouts,
    SharedTensors,
    TiledMmas,
    barrier_table,
)
from jax_fa4.kernels.sm100.backward.roles import THREADS, Role
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant

_ONE = tcgen05.CtaGroup.ONE


class BackwardSm100:
    """One compiled backward kernel for Blackwell; see the module's docstring."""

    def __init__(self, variant: BackwardVariant):
        self.config = config_of(variant)
        self.deterministic = variant.deterministic
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
        """Launch on `stream`; pointers are to contiguous BSHD arrays, and to the preprocess's."""
        of_qk = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim)
        of_v = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim_v, head_dim_v)
        mmas = self._tiled_mmas()
        layouts = self._smem_layouts(mmas)
        scheduler = self._scheduler(of_qk, head_dim_v)
        self.kernel(
            (mmas.scores, mmas.dv, mmas.dk, mmas.dq),
            self._loads(
                mmas.scores,
                layouts,
                (
                    of_qk.queries(q_ptr),
                    of_qk.keys(k_ptr),
                    of_v.keys(v_ptr),
                    of_v.queries(dout_ptr),
                ),
            ),
            self._stores(layouts, of_qk.keys(dk_ptr), of_v.keys(dv_ptr)),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr, semaphores_ptr),
            (band_lower, band_upper, seqlen_q, seqlen_k),
            (scheduler.row_blocks, scheduler.heads, batch, scheduler.heads_per_group),
            (heads_q, of_qk.ratio),
            (softmax_scale, softmax_scale * LOG2_E),
        ).launch(
            grid=(scheduler.tiles(), 1, 1),
            block=(THREADS, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _scheduler(self, shape: Shape, head_dim_v: Int32) -> LongestFirst:
        """Blocks of keys, in groups of KV heads whose queries stay in L2."""
        # Q and dO in 16 bits, dQ in 32.
        row = Int64(shape.head_dim) * (2 + 4) + head_dim_v * 2
        size = row * shape.seqlen_q * shape.ratio
        heads = LongestFirst.heads_that_fit_l2(shape.heads_kv * shape.batch, Int32(1), size)
        blocks = cute.ceil_div(shape.seqlen_k, TILE)
        return LongestFirst(blocks, shape.heads_kv, shape.batch, heads)

    def _tiled_mmas(self) -> TiledMmas:
        """All sums in float32; P^T and dS^T from tensor memory."""
        k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
        make, dtype, c = blackwell.make_trivial_tiled_mma, self.dtype, self.config
        tmem = tcgen05.OperandSource.TMEM
        square, of_v, of_k = (TILE, TILE), (TILE, c.head_dim_v), (TILE, c.head_dim)
        return TiledMmas(
            scores=make(dtype, dtype, k_major, k_major, Float32, _ONE, square),
            dv=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_v, tmem),
            dk=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_k, tmem),
            dq=make(dtype, dtype, mn_major, mn_major, Float32, _ONE, of_k),
        )

    def _smem_layouts(self, mmas: TiledMmas) -> SharedLayouts:
        """Made anew on each side of the launch: a layout is a value of its region."""
        c, dtype = self.config, self.dtype
        a, b = blackwell.make_smem_layout_a, blackwell.make_smem_layout_b
        of_k, of_v = (TILE, TILE, c.head_dim), (TILE, TILE, c.head_dim_v)
        to_k, to_v = (TILE, c.head_dim, TILE), (TILE, c.head_dim_v, TILE)

        def leaving(columns):
            return blackwell.make_smem_layout_epi(dtype, LayoutEnum.ROW_MAJOR, (TILE, columns), 1)

        return SharedLayouts(
            sK=a(mmas.scores, of_k, dtype, 1),
            sV=a(mmas.scores, of_v, dtype, 1),
            sQ=b(mmas.scores, of_k, dtype, Q_STAGES),
            sdO=b(mmas.scores, of_v, dtype, c.do_stages),
            sKt=b(mmas.dq, to_k, dtype, 1),
            sQt=b(mmas.dk, to_k, dtype, Q_STAGES),
            sdOt=b(mmas.dv, to_v, dtype, c.do_stages),
            sdS=a(mmas.dq, to_k, dtype, 1),
            sdK=leaving(c.head_dim),
            sdV=leaving(c.head_dim_v),
        )

    def _loads(self, mma: cute.TiledMma, layouts: SharedLayouts, tensors) -> tuple:
        """TMA atoms and tensors of Q, K, V and dO."""
        c = self.config
        mQ, mK, mV, mdO = tensors
        one = (None, None, None, 0)
        g2s = cpasync.CopyBulkTensorTileG2SOp(_ONE)
        cluster = cute.tiled_divide(cute.make_layout((1, 1, 1)), (mma.thr_id.shape,)).shape
        a, b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B
        of_k, of_v = (TILE, TILE, c.head_dim), (TILE, TILE, c.head_dim_v)
        return (
            tuple(b(g2s, mQ, cute.slice_(layouts.sQ, one), of_k, mma, cluster)),
            tuple(a(g2s, mK, cute.slice_(layouts.sK, one), of_k, mma, cluster)),
            tuple(a(g2s, mV, cute.slice_(layouts.sV, one), of_v, mma, cluster)),
            tuple(b(g2s, mdO, cute.slice_(layouts.sdO, one), of_v, mma, cluster)),
        )

    def _stores(self, layouts: SharedLayouts, mdK: cute.Tensor, mdV: cute.Tensor) -> tuple:
        """TMA atoms and tensors of dK and dV."""
        c = self.config
        s2g = cpasync.CopyBulkTensorTileS2GOp()
        one = (None, None, 0)
        make = cpasync.make_tiled_tma_atom
        return (
            tuple(make(s2g, mdK, cute.slice_(layouts.sdK, one), (TILE, c.head_dim))),
            tuple(make(s2g, mdV, cute.slice_(layouts.sdV, one), (TILE, c.head_dim_v))),
        )

    def _shared_storage(self, layouts: SharedLayouts):
        """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""

        def tile(layout):
            return cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(layout)], 1024]

        floats = WARPS * self.config.dq_stages * CHUNK * cute.arch.WARP_SIZE

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table(self.config))]
            tmem: Int32
            sStats: cute.struct.Align[
                cute.struct.MemRange[Float32, TILE * 2 * Q_STAGES],
                128,
            ]
            sK: tile(layouts.sK)
            sV: tile(layouts.sV)
            sQ: tile(layouts.sQ)
            sdO: tile(layouts.sdO)
            sdS: tile(layouts.sdS)
            sdQ: cute.struct.Align[cute.struct.MemRange[Float32, floats], 1024]

        return SharedStorage

    def _shared_tensors(self, storage, layouts: SharedLayouts) -> SharedTensors:
        def tensor(field, layout):
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        stats = cute.make_layout((TILE, 2, Q_STAGES))
        return SharedTensors(
            sK=tensor(storage.sK, layouts.sK),
            sV=tensor(storage.sV, layouts.sV),
            sQ=tensor(storage.sQ, layouts.sQ),
            sdO=tensor(storage.sdO, layouts.sdO),
            sKt=tensor(storage.sK, layouts.sKt),
            sQt=tensor(storage.sQ, layouts.sQt),
            sdOt=tensor(storage.sdO, layouts.sdOt),
            sdS=tensor(storage.sdS, layouts.sdS),
            sdK=tensor(storage.sQ, layouts.sdK),
            sdV=tensor(storage.sdO, layouts.sdV),
            dscores=storage.sdS.data_ptr(),
            dk=storage.sQ.data_ptr(),
            dv=storage.sdO.data_ptr(),
            dq=storage.sdQ.data_ptr(),
            sStats=storage.sStats.get_tensor(stats),
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma, cute.TiledMma],
        loads: tuple,  # TMA atoms and tensors of Q, K, V, dO
        stores: tuple,  # and of dK, dV
        scratch: tuple[cute.Pointer, cute.Pointer, cute.Pointer, cute.Pointer],
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        heads: tuple[Int32, Int32],
        scales: tuple[Float32, Float32],
    ):
        config, mmas = self.config, TiledMmas(*tiled_mmas)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = self._smem_layouts(mmas)
        storage = SmemAllocator().allocate(self._shared_storage(layouts))
        barriers = mbarriers.allocate(barrier_table(config), storage.barriers.data_ptr())
        if warp == Role.LOAD:
            for atom, _ in (*loads, *stores):
                cpasync.prefetch_descriptor(atom)
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
            cute.arch.mbarrier_init_fence()
        if warp == Role.MMA:
            cute.arch.alloc_tmem(TMEM_COLUMNS, storage.tmem)
            cute.arch.relinquish_tmem_alloc_permit()
        cute.arch.sync_threads()

        context = Context(
            config=config,
            dtype=self.dtype,
            mmas=mmas,
            barriers=barriers,
            shared=self._shared_tensors(storage, layouts),
            gmem=GlobalTensors(*loads, *stores, *scratch),
            tmem=cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem),
            band=Band(*band),
            scheduler=LongestFirst(*tiles),
            heads_q=heads[0],
            ratio=heads[1],
            scale=scales[0],
            scale_log2=scales[1],
            deterministic=self.deterministic,
        )

        # ---- compute: P and dS of a half of the queries; then dK and dV
        if warp < WARPS * HALVES:
            if cutlass.const_expr(config.compute_registers > LAUNCH_REGISTERS):
                cute.arch.setmaxregister_increase(config.compute_registers)
            compute.run(context, warp // WARPS)

        # ---- reduce: dQ
        if warp // WARPS == Role.REDUCE // WARPS:
            cute.arch.setmaxregister_increase(config.reduce_registers)
            reduce.run(context)

        # ---- the other four warps
        if warp // WARPS == Role.MMA // WARPS:
            cute.arch.setmaxregister_decrease(config.other_registers)
            if warp == Role.MMA:
                mma.run(context)
            if warp == Role.LOAD:
                load.run(context)

        # Tensor memory is read by compute and reduce; who allocated it gives it back.
        cute.arch.sync_threads()
        if warp == Role.MMA:
            # Read again, not kept in a register of every role.
            tmem = cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem)
            cute.arch.dealloc_tmem(tmem, TMEM_COLUMNS)
