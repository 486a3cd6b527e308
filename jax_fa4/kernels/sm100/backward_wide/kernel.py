"""The Blackwell backward at wide heads: a CTA makes one of dK, dQ and dV of 128 rows.

    P  = exp2(scale log2(e) S - lse log2(e)),  S = Q K^T within the band
    dV = P^T dO     dP = dO V^T     dS = P (dP - delta)     dK = scale dS^T Q     dQ = scale dS K

At head dim 256 the sums of dK and dV of 128 keys are all of tensor memory, and dQ would leave by
additions in float32 at more bytes a cycle than L2 takes. So S is made three times and dP twice,
8 products for 5, and nothing else: a CTA has one sum, and stores it. Seen so, all three are one
kernel, of own rows and of a stream of blocks of 64 others, and dK and dQ the same products with
queries and keys exchanged. Nothing is added in an order that varies: the results have the same bits
in every run.

    | sum | own first | own second | stream's first | stream's second |   Scores are of own rows by
    |-----|-----------|------------|----------------|-----------------|   streamed ones: keys by
    | dK  | K         | V          | Q              | dO              |   queries for dK and dV, S^T
    | dQ  | Q         | dO         | K              | V               |   and dP^T, queries by keys
    | dV  | K         |            | Q              | dO              |   for dQ.

    compute warpgroup h: half of the own rows' columns --> tensor memory   once
    load warp --TMA--> rings of the stream's first and second, statistics -----+
                                                                               |
        MMA warp: S = own first first^T, dP = own second second^T --> tensor memory
                                                                               |
        compute warpgroup h: columns 32 h ..: S to P, dP to dS --> tensor memory
                                                                               |
        MMA warp: sum += dS first, or P second --> tensor memory
                                                                               |
    dk, dv, dq_accum <-- compute warpgroup h: half of the columns, at the end

What the tensor core and compute do at a time, for visits t, t + 1 (`mma`), of dK and dQ:

    tensor   S(t+1) |  sum(t)  |  dP(t+1)  | S(t+2) | sum(t+1) ...
    compute   dS(t) | P(t+1) ..............| dS(t+1)  | P(t+2) ...

| barrier      | stages | a phase ends when                          | who waits |
|--------------|--------|--------------------------------------------|-----------|
| own_ready    | 1      | 8 compute warps: own rows as operands      | MMA       |
| own_full     | 1      | TMA: own second, if in shared memory       | MMA       |
| first_full   | a ring | TMA: the stream's first                    | MMA       |
| first_empty  | a ring | the last product with it                   | load      |
| second_full  | a ring | TMA: the stream's second                   | MMA       |
| second_empty | a ring | the last product with it                   | load      |
| stats_full   | 3      | bulk copies: lse_log2 and delta            | compute   |
| stats_empty  | 3      | 8 compute warps have read them             | load      |
| s_full       | 2      | S; of dK and dQ the first stage alone      | compute   |
| s_read       | 1      | 8 compute warps have read S, not for dV    | MMA       |
| dp_full      | 1      | dP                                         | compute   |
| factor_ready | 2      | 8 compute warps: P or dS is in its columns | MMA       |
| sum_full     | 1      | the last product of all                    | compute   |

Tensor memory: `config.TensorMemory`, with the reason for which each reuse is safe.

A CTA whose rows see nothing visits one block, in which everything is masked, and writes zeros.

Roofline, head dims (256, 256), cycles a visit of 128 rows by 64: the tensor core 512 for each of S,
dP and sum; shared memory, 128 bytes a cycle, 256 for S, 768 for dP, whose own rows are there, 256
for the sum and 512 for the copies. Of dK and dQ 1536 and 1792; of dV 1024 and 1024.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.memory import SmemAllocator
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward_wide import compute, load, mma
from jax_fa4.kernels.sm100.backward_wide.config import (
    HALVES,
    STATS_STAGES,
    STREAM,
    TILE,
    TMEM_COLUMNS,
    config_of,
)
from jax_fa4.kernels.sm100.backward_wide.context import (
    WARPS,
    Context,
    GlobalTensors,
    SharedLayouts,
    SharedTensors,
    TiledMmas,
    barrier_table,
)
from jax_fa4.kernels.sm100.backward_wide.roles import THREADS, Gradient, Role, gradient_of
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant

_ONE = tcgen05.CtaGroup.ONE


class BackwardWideSm100:
    """One compiled backward kernel for Blackwell; see the module's docstring."""

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
        """Launch on `stream`; pointers are to contiguous BSHD arrays, and to the preprocess's."""
        of_qk = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim)
        of_v = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim_v, head_dim_v)
        mmas = self._tiled_mmas()
        layouts = self._smem_layouts(mmas)
        of_keys, of_queries = self._schedulers(of_qk, head_dim_v)
        tensors = (
            of_qk.queries(q_ptr),
            of_qk.keys(k_ptr),
            of_v.keys(v_ptr),
            of_v.queries(dout_ptr),
        )
        self.kernel(
            (mmas.scores, mmas.dscores, mmas.wide, mmas.dv),
            self._loads(mmas, layouts, tensors),
            (q_ptr, k_ptr, v_ptr, dout_ptr, dk_ptr, dv_ptr),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr),
            (band_lower, band_upper),
            (seqlen_q, seqlen_k, head_dim, head_dim_v),
            (of_keys.row_blocks, of_keys.heads, batch, of_keys.heads_per_group),
            (of_queries.row_blocks, of_queries.heads, batch, of_queries.heads_per_group),
            (of_keys.make_divisors(), of_queries.make_divisors()),
            (of_qk.ratio, cute.fast_divmod_create_divisor(of_qk.ratio)),
            (softmax_scale, softmax_scale * LOG2_E),
        ).launch(
            grid=(2 * of_keys.tiles() + of_queries.tiles(), 1, 1),
            block=(THREADS, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _schedulers(self, shape: Shape, head_dim_v: Int32) -> tuple[LongestFirst, LongestFirst]:
        """Blocks of keys and of queries, in groups of heads whose stream stays in L2."""
        row = (Int64(shape.head_dim) + head_dim_v) * 2
        fit = LongestFirst.heads_that_fit_l2
        keys, queries = shape.heads_kv * shape.batch, shape.heads_q * shape.batch
        of_keys = fit(keys, Int32(1), row * shape.seqlen_q * shape.ratio)
        of_queries = fit(queries, shape.ratio, row * shape.seqlen_k)
        of_rows = cute.ceil_div(shape.seqlen_k, TILE), cute.ceil_div(shape.seqlen_q, TILE)
        return (
            LongestFirst(of_rows[0], shape.heads_kv, shape.batch, of_keys),
            LongestFirst(of_rows[1], shape.heads_q, shape.batch, of_queries),
        )

    def _tiled_mmas(self) -> TiledMmas:
        """All sums in float32; P, dS and own rows from tensor memory."""
        k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
        make, dtype, c = blackwell.make_trivial_tiled_mma, self.dtype, self.config
        tmem, smem = tcgen05.OperandSource.TMEM, tcgen05.OperandSource.SMEM
        of_second = tmem if c.tensor_memory.holds_second else smem
        scores, of_k, of_v = (TILE, STREAM), (TILE, c.head_dim), (TILE, c.head_dim_v)
        return TiledMmas(
            scores=make(dtype, dtype, k_major, k_major, Float32, _ONE, scores, tmem),
            dscores=make(dtype, dtype, k_major, k_major, Float32, _ONE, scores, of_second),
            wide=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_k, tmem),
            dv=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_v, tmem),
        )

    def _smem_layouts(self, mmas: TiledMmas) -> SharedLayouts:
        """Made anew on each side of the launch: a layout is a value of its region."""
        c, dtype = self.config, self.dtype
        a, b = blackwell.make_smem_layout_a, blackwell.make_smem_layout_b
        of_k, of_v = (TILE, STREAM, c.head_dim), (TILE, STREAM, c.head_dim_v)
        to_k, to_v = (TILE, c.head_dim, STREAM), (TILE, c.head_dim_v, STREAM)
        return SharedLayouts(
            first=b(mmas.scores, of_k, dtype, c.first_stages),
            first_t=b(mmas.wide, to_k, dtype, c.first_stages),
            second=b(mmas.dscores, of_v, dtype, c.second_stages_of_dv),
            second_t=b(mmas.dv, to_v, dtype, c.second_stages_of_dv),
            own=a(mmas.dscores, of_v, dtype, 1),
        )

    def _loads(self, mmas: TiledMmas, layouts: SharedLayouts, tensors) -> tuple:
        """TMA atoms and tensors of blocks of Q, K, V and dO, and of own rows of V and dO."""
        c = self.config
        mQ, mK, mV, mdO = tensors
        one = (None, None, None, 0)
        g2s = cpasync.CopyBulkTensorTileG2SOp(_ONE)
        cluster = cute.tiled_divide(cute.make_layout((1, 1, 1)), (mmas.scores.thr_id.shape,)).shape
        a, b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B
        of_k, of_v = (TILE, STREAM, c.head_dim), (TILE, STREAM, c.head_dim_v)
        first, second, own = (
            cute.slice_(x, one) for x in (layouts.first, layouts.second, layouts.own)
        )
        return (
            tuple(b(g2s, mQ, first, of_k, mmas.scores, cluster)),
            tuple(b(g2s, mK, first, of_k, mmas.scores, cluster)),
            tuple(b(g2s, mV, second, of_v, mmas.dscores, cluster)),
            tuple(b(g2s, mdO, second, of_v, mmas.dscores, cluster)),
            tuple(a(g2s, mV, own, of_v, mmas.dscores, cluster)),
            tuple(a(g2s, mdO, own, of_v, mmas.dscores, cluster)),
        )

    def _shared_storage(self, layouts: SharedLayouts):
        """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""

        def tile(layout):
            return cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(layout)], 1024]

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table(self.config))]
            tmem: Int32
            stats: cute.struct.Align[
                cute.struct.MemRange[Float32, STREAM * 2 * STATS_STAGES],
                128,
            ]
            unread: cute.struct.MemRange[Int32, HALVES * TILE]
            first: tile(layouts.first)
            second: tile(layouts.second)

        return SharedStorage

    def _shared_tensors(self, storage, layouts: SharedLayouts) -> SharedTensors:
        def tensor(field, layout):
            return field.get_tensor(layout.outer, swizzle=layout.inner)

        c = self.config
        own = None
        if not c.tensor_memory.holds_second:
            # A swizzle is of addresses, which are whole patterns apart.
            place = storage.second.data_ptr() + STREAM * c.head_dim_v * c.second_stages
            place = cute.recast_ptr(place, layouts.own.inner, dtype=self.dtype)
            own = cute.make_tensor(place, layouts.own.outer)
        stats = cute.make_layout((STREAM, 2, STATS_STAGES))
        return SharedTensors(
            first=tensor(storage.first, layouts.first),
            first_t=tensor(storage.first, layouts.first_t),
            second=tensor(storage.second, layouts.second),
            second_t=tensor(storage.second, layouts.second_t),
            own=own,
            stats=storage.stats.get_tensor(stats),
            unread=storage.unread.get_tensor(cute.make_layout(HALVES * TILE)),
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma, cute.TiledMma],
        loads: tuple,  # TMA atoms and tensors of blocks of Q, K, V, dO; of own rows of V, dO
        arrays: tuple,  # q, k, v, dout, dk, dv
        scratch: tuple[cute.Pointer, cute.Pointer, cute.Pointer],
        band: tuple[Int32, Int32],
        lengths: tuple[Int32, Int32, Int32, Int32],
        of_keys: tuple[Int32, Int32, Int32, Int32],
        of_queries: tuple[Int32, Int32, Int32, Int32],
        divisors: tuple,  # of the two `LongestFirst` above
        ratio: tuple[Int32, cute.FastDivmodDivisor],
        scales: tuple[Float32, Float32],
    ):
        config, mmas = self.config, TiledMmas(*tiled_mmas)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = self._smem_layouts(mmas)
        storage = SmemAllocator().allocate(self._shared_storage(layouts))
        barriers = mbarriers.allocate(barrier_table(config), storage.barriers.data_ptr())
        if warp == Role.LOAD:
            for atom, _ in loads:
                cpasync.prefetch_descriptor(atom)
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
            cute.arch.mbarrier_init_fence()
        if warp == Role.MMA:
            cute.arch.alloc_tmem(TMEM_COLUMNS, storage.tmem)
            cute.arch.relinquish_tmem_alloc_permit()
        cute.arch.sync_threads()

        seqlen_q, seqlen_k, head_dim, head_dim_v = lengths
        keys = LongestFirst(*of_keys, divisors[0])
        queries = LongestFirst(*of_queries, divisors[1])
        gradient, tile = gradient_of(keys, queries)
        context = Context(
            config=config,
            dtype=self.dtype,
            mmas=mmas,
            barriers=barriers,
            shared=self._shared_tensors(storage, layouts),
            gmem=GlobalTensors(*loads, *arrays, *scratch),
            tmem=cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem),
            tile=tile,
            band=Band(*band, seqlen_q, seqlen_k),
            head_dim=head_dim,
            head_dim_v=head_dim_v,
            of_keys=keys,
            of_queries=queries,
            ratio=ratio[0],
            by_ratio=ratio[1],
            scale=scales[0],
            scale_log2=scales[1],
        )

        for made in Gradient:
            if gradient == made:
                # ---- compute: P and dS of a half of the stream's rows; then the sum
                if warp < WARPS * HALVES:
                    compute.run(context, made, warp // WARPS)
                # ---- the other four warps
                if warp == Role.MMA:
                    mma.run(context, made)
                if warp == Role.LOAD:
                    load.run(context, made)

        # Tensor memory is read by compute; who allocated it gives it back.
        cute.arch.sync_threads()
        if warp == Role.MMA:
            # Read again, not kept in a register of every role.
            tmem = cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem)
            cute.arch.dealloc_tmem(tmem, TMEM_COLUMNS)
