"""The Blackwell backward at wide heads: a CTA makes dK, dQ or dV of 128 rows, or dK and dV.

    P  = exp2(scale log2(e) S - lse log2(e)),  S = Q K^T within the band
    dV = P^T dO     dP = dO V^T     dS = P (dP - delta)     dK = scale dS^T Q     dQ = scale dS K

At head dim 256 the sums of dK and dV of 128 keys are all of tensor memory, and dQ of every visit
would leave by additions in float32, more bytes a cycle than L2 takes. So S is made three times and
dP twice, 8 products for 5; at (192, 128), where dK and dV share a CTA, 7 for 5. A CTA keeps its
sums to the end, and stores them: nothing is added in an order that varies, and the results have the
same bits in every run. All are one kernel, of own rows and of a stream of blocks of 64 others; dK
and dQ are the same products with queries and keys exchanged:

    | sum | own first | own second | stream's first | stream's second |   Scores are of own rows by
    |-----|-----------|------------|----------------|-----------------|   streamed ones: keys by
    | dK  | K         | V          | Q              | dO              |   queries for dK and dV, S^T
    | dQ  | Q         | dO         | K              | V               |   and dP^T, queries by keys
    | dV  | K         |            | Q              | dO              |   for dQ.

    compute warpgroup h: half of the own rows' columns --> tensor memory   once
    load warp --TMA--> the other own rows, once; rings of the stream, statistics --+
                                                                                   |
        MMA warp: S = own first first^T, dP = own second second^T --> tensor memory
                                                                                   |
        compute warpgroup h: columns 32 h ..: S to P, dP to dS --> tensor memory
                                                                                   |
        MMA warp: dK or dQ += dS first, dV += P second --> tensor memory
                                                                                   |
    dk, dv, dq_accum <-- compute warpgroup h: half of the columns, at the end

What the tensor core and compute do at a time, for visits t, t + 1 (`mma`), of dK or dQ, and of dK
and dV together:

    tensor   S(t+1) | dK(t)  |  dP(t+1)  | S(t+2) | dK(t+1) ...
    compute   dS(t) | P(t+1) ............| dS(t+1)  | P(t+2) ...

    tensor    dV(t) | S(t+1) | dK(t) | dP(t+1) | dV(t+1) ...
    compute   dS(t) .........| P(t+1) .........| dS(t+1) ...

| barrier      | stages | a phase ends when                                   | who waits |
|--------------|--------|-----------------------------------------------------|-----------|
| own_ready    | 1      | 8 compute warps: own rows are in tensor memory      | MMA       |
| own_full     | 1      | TMA: own rows for shared memory                     | MMA       |
| first_full   | a ring | TMA: the stream's first                             | MMA       |
| first_empty  | a ring | the last product with it                            | load      |
| second_full  | a ring | TMA: the stream's second                            | MMA       |
| second_empty | a ring | the last product with it                            | load      |
| stats_full   | 3      | bulk copies: lse_log2 and delta                     | compute   |
| stats_empty  | 3      | 8 compute warps have read them                      | load      |
| s_full       | 2      | S; the second stage is of dV alone                  | compute   |
| s_read       | 1      | 8 compute warps have read S; of dK or dQ alone      | MMA       |
| p_ready      | 2      | 8 compute warps: P, and S was read; stages as of S  | MMA       |
| dp_full      | 1      | dP                                                  | compute   |
| ds_ready     | 1      | 8 compute warps: dS, and dP was read                | MMA       |
| sum_full     | 1      | the last product of all                             | compute   |

Tensor memory: `config.TensorMemory`, with the reason for which each reuse is safe.

A CTA whose rows see nothing visits one block, in which everything is masked, and writes zeros.

Roofline, cycles a visit of 128 rows by 64 on the tensor core, which takes 48 for a step of scores
with own rows in shared memory, and 32 with those in tensor memory, 128 for a step of a sum of 256:
head dims (256, 256) dK and dQ 512 + 768 + 512 each, dV 512 + 512; (192, 128) dK and dV
576 + 256 + 384 + 256, dQ 384 + 256 + 384. Exponentials, 16 a cycle, are 512 of each.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from jax_fa4.kernels.sm100.backward.context import Further, bounds_of
from jax_fa4.kernels.sm100.backward_wide import compute, load, mma, plan
from jax_fa4.kernels.sm100.backward_wide.config import (
    HALVES,
    TILE,
    TMEM_COLUMNS,
    config_of,
)
from jax_fa4.kernels.sm100.backward_wide.context import (
    WARPS,
    Context,
    GlobalTensors,
    TiledMmas,
    barrier_table,
)
from jax_fa4.kernels.sm100.backward_wide.roles import THREADS, Role, place_in_grid
from jax_fa4.kernels.toolkit import mbarriers, softcap
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant


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
        self.launch(
            (q_ptr, k_ptr, v_ptr, dout_ptr, dk_ptr, dv_ptr),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr),
            Further(),
            (of_qk, of_v),
            softmax_scale,
            (band_lower, band_upper),
            stream,
        )

    @cute.jit
    def launch(
        self,
        arrays: tuple[cute.Pointer, ...],  # q, k, v, dout, dk, dv
        scratch: tuple[cute.Pointer, ...],  # lse_log2, delta, dq_accum
        further: Further,
        shapes: tuple[Shape, Shape],  # with the head dim of keys, and with that of values
        softmax_scale: Float32,
        band: tuple[Int32, Int32],
        stream: cuda.CUstream,
    ):
        """What entry points with other arguments share."""
        config, (of_qk, of_v), (q_ptr, k_ptr, v_ptr, dout_ptr, *_) = self.config, shapes, arrays
        mmas = plan.tiled_mmas(config, self.dtype)
        layouts = plan.smem_layouts(config, self.dtype, mmas)
        of_keys, of_queries = self._schedulers(of_qk, of_v.head_dim)
        tensors = (
            of_qk.queries(q_ptr),
            of_qk.keys(k_ptr),
            of_v.keys(v_ptr),
            of_v.queries(dout_ptr),
        )
        scale_log2, slope = softmax_scale * LOG2_E, ()
        if cutlass.const_expr(config.softcap):
            *slope, scale_log2 = softcap.factors(softmax_scale, further.softcap)
        self.kernel(
            (mmas.from_tmem, mmas.from_smem, mmas.wide, mmas.dv),
            plan.loads(config, mmas.from_smem, layouts, tensors),
            arrays,
            scratch,
            further.bounds,
            band,
            (of_qk.seqlen_q, of_qk.seqlen_k, of_qk.head_dim, of_v.head_dim),
            (of_keys.row_blocks, of_keys.heads, of_qk.batch, of_keys.heads_per_group),
            (of_queries.row_blocks, of_queries.heads, of_qk.batch, of_queries.heads_per_group),
            (of_keys.make_divisors(), of_queries.make_divisors()),
            (of_qk.ratio, cute.fast_divmod_create_divisor(of_qk.ratio)),
            (softmax_scale, scale_log2, *slope),
        ).launch(
            grid=(self._tiles(of_keys, of_queries), 1, 1),
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

    def _tiles(self, of_keys: LongestFirst, of_queries: LongestFirst) -> Int32:
        """CTAs of the grid."""
        of_each = [of_keys if g.of_keys else of_queries for g in self.config.gradients]
        return sum((scheduler.tiles() for scheduler in of_each), Int32(0))

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma, cute.TiledMma],
        loads: tuple,  # TMA atoms and tensors of blocks of Q, K, V, dO; of own rows
        arrays: tuple,  # q, k, v, dout, dk, dv
        scratch: tuple[cute.Pointer, cute.Pointer, cute.Pointer],
        bounds: tuple[cute.Pointer, ...],  # as of `Further`
        band: tuple[Int32, Int32],
        lengths: tuple[Int32, Int32, Int32, Int32],
        of_keys: tuple[Int32, Int32, Int32, Int32],
        of_queries: tuple[Int32, Int32, Int32, Int32],
        divisors: tuple,  # of the two `LongestFirst` above
        ratio: tuple[Int32, cute.FastDivmodDivisor],
        scales: tuple[Float32, ...],  # of scores; in base 2; slope of a softcap, if there is one
    ):
        config, mmas = self.config, TiledMmas(*tiled_mmas)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = plan.smem_layouts(self.config, self.dtype, mmas)
        storage = SmemAllocator().allocate(plan.shared_storage(config, self.dtype, layouts))
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
        which, tile = place_in_grid(config, keys, queries)
        context = Context(
            config=config,
            dtype=self.dtype,
            mmas=mmas,
            barriers=barriers,
            shared=plan.shared_tensors(config, self.dtype, storage, layouts),
            gmem=GlobalTensors(*loads[:4], loads[4:], *arrays, *scratch),
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
            bounds=bounds_of(bounds, *lengths[:2]) if cutlass.const_expr(config.bounded) else None,
            slope=scales[2] if cutlass.const_expr(config.softcap) else None,
        )

        for number, made in enumerate(config.gradients):
            if which == number:
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
