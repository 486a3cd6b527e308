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
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from jax_fa4.kernels.sm100.backward import compute, load, mma, plan, reduce
from jax_fa4.kernels.sm100.backward.config import (
    HALVES,
    LAUNCH_REGISTERS,
    TILE,
    TMEM_COLUMNS,
    config_of,
)
from jax_fa4.kernels.sm100.backward.context import (
    WARPS,
    Context,
    Further,
    GlobalTensors,
    TiledMmas,
    barrier_table,
    bounds_of,
)
from jax_fa4.kernels.sm100.backward.roles import THREADS, Role
from jax_fa4.kernels.toolkit import mbarriers, softcap
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant


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
        self.launch(
            (q_ptr, k_ptr, v_ptr, dout_ptr, dk_ptr, dv_ptr),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr, semaphores_ptr),
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
        scratch: tuple[cute.Pointer, ...],  # lse_log2, delta, dq_accum, semaphores
        further: Further,
        shapes: tuple[Shape, Shape],  # with the head dim of keys, and with that of values
        softmax_scale: Float32,
        band: tuple[Int32, Int32],
        stream: cuda.CUstream,
    ):
        """What entry points with other arguments share."""
        config, (of_qk, of_v) = self.config, shapes
        q_ptr, k_ptr, v_ptr, dout_ptr, dk_ptr, dv_ptr = arrays
        mmas = plan.tiled_mmas(config, self.dtype)
        layouts = plan.smem_layouts(config, self.dtype, mmas)
        scheduler = self._scheduler(of_qk, of_v.head_dim)
        scale_log2, slope = softmax_scale * LOG2_E, ()
        if cutlass.const_expr(config.softcap):
            *slope, scale_log2 = softcap.factors(softmax_scale, further.softcap)
        self.kernel(
            (mmas.scores, mmas.dv, mmas.dk, mmas.dq),
            plan.loads(
                config,
                mmas.scores,
                layouts,
                (
                    of_qk.queries(q_ptr),
                    of_qk.keys(k_ptr),
                    of_v.keys(v_ptr),
                    of_v.queries(dout_ptr),
                ),
            ),
            plan.stores(config, layouts, of_qk.keys(dk_ptr), of_v.keys(dv_ptr)),
            scratch,
            further.bounds,
            (*band, of_qk.seqlen_q, of_qk.seqlen_k),
            (scheduler.row_blocks, scheduler.heads, of_qk.batch, scheduler.heads_per_group),
            (of_qk.heads_q, of_qk.ratio),
            (softmax_scale, scale_log2, *slope),
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

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma, cute.TiledMma],
        loads: tuple,  # TMA atoms and tensors of Q, K, V, dO
        stores: tuple,  # and of dK, dV
        scratch: tuple[cute.Pointer, cute.Pointer, cute.Pointer, cute.Pointer],
        bounds: tuple[cute.Pointer, ...],  # as of `Further`
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        heads: tuple[Int32, Int32],
        scales: tuple[Float32, ...],  # of scores; in base 2; slope of a softcap, if there is one
    ):
        config, mmas = self.config, TiledMmas(*tiled_mmas)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = plan.smem_layouts(config, self.dtype, mmas)
        storage = SmemAllocator().allocate(plan.shared_storage(config, self.dtype, layouts))
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
            shared=plan.shared_tensors(storage, layouts),
            gmem=GlobalTensors(*loads, *stores, *scratch),
            tmem=cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem),
            band=Band(*band),
            scheduler=LongestFirst(*tiles),
            heads_q=heads[0],
            ratio=heads[1],
            scale=scales[0],
            scale_log2=scales[1],
            deterministic=self.deterministic,
            bounds=bounds_of(bounds, *band[2:]) if cutlass.const_expr(config.bounded) else None,
            slope=scales[2] if cutlass.const_expr(config.softcap) else None,
        )

        # ---- compute: P and dS of a half of the queries; then dK and dV
        if warp < WARPS * HALVES:
            if cutlass.const_expr(config.compute_registers > LAUNCH_REGISTERS):
                cute.arch.setmaxregister_increase(config.compute_registers)
            compute.run(context, warp // WARPS)

        # ---- reduce: dQ
        if warp // WARPS == Role.REDUCE // WARPS:
            if cutlass.const_expr(config.reduce_registers > LAUNCH_REGISTERS):
                cute.arch.setmaxregister_increase(config.reduce_registers)
            else:
                cute.arch.setmaxregister_decrease(config.reduce_registers)
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
