"""The Blackwell backward by pairs of CTAs, each of which makes dQ of half of the queries.

The products, and what a CTA owns, are those of `backward.kernel`: 128 keys, whose dK and dV stay in
tensor memory; scores are transposed, keys by queries. Two CTAs of neighbouring keys multiply
together (cta_group::2), so that a product has 256 keys and each CTA's shared memory half of the
operand that both need. dQ = dS K sums over keys, those of both: each CTA makes it for 64 of a
block's 128 queries with twice the depth, for which the two exchange halves of dS. So what is added
to `dq_accum`, and staged for that, is half of what two lone CTAs add.

    products, by size       M             N             K                 halves of the CTAs
    S = K Q^T, dP = V dO^T  256 keys      128 queries   head dim          keys; of Q, dO queries
    dV = P dO, dK = dS Q    256 keys      head dim      128 queries       keys; of dO, Q columns
    dQ = dS K               128 queries   head dim      256 keys          queries; of K columns

                    each CTA, rank r                         its peer
    load warp       own keys of K and V, its halves of Q and dO (twice) and of K; statistics
                          |
    leader's MMA    S^T, dP^T --> tensor memory of both
                          |
    compute h       queries of part h and h + 2: S^T to P^T, dP^T to dS^T --> tensor memory
                    h = r: dS --> sdS                        h = r: dS --> behind sdS -+
                    sdS of r <-- bulk copy, by distributed shared memory --------------+
                          |
    leader's MMA    dV += P^T dO, dK += dS^T Q, dQ = dS K --> tensor memory of both
                          |
    reduce          dQ of 64 queries --> staging --> bulk additions --> dq_accum
    compute         dK, dV --> sK, sV --TMA--> at the end

What the tensor core, compute and reduce do at a time, for visits t, t + 1 (`mma`):

    tensor   dV(t) | S(t+1) |  dK(t)  | dP(t+1) |  dQ(t)  | dV(t+1) | S(t+2) | dK(t+1) ...
    compute      dS(t)      |  P(t+1) ..............|        dS(t+1)          | P(t+2) ...
    exchange           dS(t) to the peer .....      |
    reduce                                                | dQ(t) out, then to memory ...

| barrier     | stages | a phase ends when                                  | who waits           |
|-------------|--------|----------------------------------------------------|---------------------|
| k_full, v_full, kt_full     | 1 | TMA, both CTAs: K, V, K by columns      | MMA                 |
| q_full, do_full             | 1 | TMA, both CTAs: Q, dO                   | MMA                 |
| qt_full, dot_full           | 1 | TMA, both CTAs: Q, dO by columns        | MMA                 |
| q_empty, do_empty           | 1 | S^T, dP^T                               | load, both          |
| qt_empty, dot_empty         | 1 | dK, dV with it                          | load, both          |
| stats_full  | 2      | bulk copies: lse_log2 and delta                    | compute             |
| stats_empty | 2      | 8 compute warps have read them                     | load                |
| s_full      | 1      | S^T                                                | compute, both       |
| s_read      | 1      | 16 compute warps: S^T is in registers              | MMA, before dQ      |
| p_begun     | 1      | 16 compute warps: P^T of the first two parts       | MMA                 |
| p_ready     | 1      | 16 compute warps: P^T                              | MMA, mid product    |
| dp_full     | 1      | dP^T                                               | compute, both       |
| ds_ready    | 1      | 16 compute warps: dS^T; dP^T was read              | MMA                 |
| ds_full     | 1      | 4 compute warps: own half of sdS; and the bytes of | the CTA's MMA warp  |
|             |        | the peer's copies                                  |                     |
| ds_of_peer  | 1      | the peer's MMA warp: its ds_full                   | MMA                 |
| dq_full     | 1      | dQ, so that sdS and what left are free             | reduce and compute, |
|             |        |                                                    | both                |
| dq_empty    | 1      | 8 reduce warps have read it                        | MMA, before S^T     |
| dv_full     | 1      | the last product into dV                           | compute, both       |
| dk_full     | 1      | the last product of all                            | compute, both       |

"MMA" is the leader's, at whose barriers threads and copies of both CTAs arrive; its products arrive
at both CTAs' (`toolkit.mbarriers`, paired). stats and ds_full are each CTA's own. Tensor memory:
`config.TensorMemory`, with the reason for which each reuse is safe.

Both visit the blocks of queries that see any of the pair's keys, at least one. A CTA without keys
takes part: TMA fills its K and V with zeros, the mask hides all, and what it stores is cut off.

Roofline, head dim 128, cycles a tile of 128 x 128: the tensor core 5 x 512; shared memory, 128
bytes a cycle, 2 x 384 for S and dP, 2 x 128 for dV and dK, 512 for dQ, 256 for the store of dS,
384 for its exchange and 512 for dQ's way out, 2688; exponentials 16 a cycle, 1024.
"""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from jax_fa4.kernels.sm100.backward.config import HALVES, LAUNCH_REGISTERS, TMEM_COLUMNS
from jax_fa4.kernels.sm100.backward.context import WARPS, TiledMmas
from jax_fa4.kernels.sm100.backward.roles import THREADS, Role
from jax_fa4.kernels.sm100.backward_pair import compute, load, mma, reduce
from jax_fa4.kernels.sm100.backward_pair.config import PAIR, PAIR_KEYS, config_of
from jax_fa4.kernels.sm100.backward_pair.context import Context, GlobalTensors, barrier_table
from jax_fa4.kernels.sm100.backward_pair.plan import Plan
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LOG2_E, Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import BackwardVariant


def _by_columns(tensor: cute.Tensor) -> cute.Tensor:
    """(seqlen, head_dim, heads, batch) as (head_dim, seqlen, heads, batch)."""
    return cute.make_tensor(tensor.iterator, cute.select(tensor.layout, [1, 0, 2, 3]))


def _sync_pair() -> None:
    """All threads of both CTAs."""
    cute.arch.cluster_arrive()
    cute.arch.cluster_wait()


class BackwardPairSm100:
    """One compiled backward kernel for Blackwell by pairs; see the module's docstring."""

    def __init__(self, variant: BackwardVariant):
        self.config = config_of(variant)
        self.deterministic = variant.deterministic
        self.dtype = ELEMENT_TYPES[variant.dtype]
        self.plan = Plan(self.config, self.dtype)

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
        mmas = self.plan.tiled_mmas()
        layouts = self.plan.smem_layouts(mmas)
        mQ, mK, mdO = of_qk.queries(q_ptr), of_qk.keys(k_ptr), of_v.queries(dout_ptr)
        tensors = {
            **{"q": mQ, "k": mK, "v": of_v.keys(v_ptr), "do": mdO},
            **{"qt": _by_columns(mQ), "kt": _by_columns(mK), "dot": _by_columns(mdO)},
        }
        scheduler = self._scheduler(of_qk, head_dim_v)
        self.kernel(
            (mmas.scores, mmas.dv, mmas.dk, mmas.dq),
            self.plan.loads(mmas, layouts, tensors),
            self.plan.stores(layouts, of_qk.keys(dk_ptr), of_v.keys(dv_ptr)),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr, semaphores_ptr),
            (band_lower, band_upper, seqlen_q, seqlen_k),
            (scheduler.row_blocks, scheduler.heads, batch, scheduler.heads_per_group),
            (heads_q, of_qk.ratio),
            (softmax_scale, softmax_scale * LOG2_E),
        ).launch(
            grid=(scheduler.tiles() * PAIR, 1, 1),
            block=(THREADS, 1, 1),
            cluster=(PAIR, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def _scheduler(self, shape: Shape, head_dim_v: Int32) -> LongestFirst:
        """Blocks of a pair's keys, in groups of KV heads whose queries stay in L2."""
        # Q and dO in 16 bits, dQ in 32.
        row = Int64(shape.head_dim) * (2 + 4) + head_dim_v * 2
        size = row * shape.seqlen_q * shape.ratio
        heads = LongestFirst.heads_that_fit_l2(shape.heads_kv * shape.batch, Int32(1), size)
        blocks = cute.ceil_div(shape.seqlen_k, PAIR_KEYS)
        return LongestFirst(blocks, shape.heads_kv, shape.batch, heads)

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma, cute.TiledMma, cute.TiledMma],
        loads: tuple,  # TMA atoms and tensors, in the order of `GlobalTensors`
        stores: tuple,  # and of dK, dV
        scratch: tuple[cute.Pointer, cute.Pointer, cute.Pointer, cute.Pointer],
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        heads: tuple[Int32, Int32],
        scales: tuple[Float32, Float32],
    ):
        config, mmas = self.config, TiledMmas(*tiled_mmas)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = self.plan.smem_layouts(mmas)
        storage = SmemAllocator().allocate(self.plan.shared_storage(layouts))
        barriers = mbarriers.allocate(barrier_table(), storage.barriers.data_ptr())
        if warp == Role.LOAD:
            for atom, _ in (*loads, *stores):
                cpasync.prefetch_descriptor(atom)
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
            cute.arch.mbarrier_init_fence()
        if warp == Role.MMA:
            cute.arch.alloc_tmem(TMEM_COLUMNS, storage.tmem, is_two_cta=True)
            cute.arch.relinquish_tmem_alloc_permit(is_two_cta=True)
        _sync_pair()

        context = Context(
            config=config,
            dtype=self.dtype,
            mmas=mmas,
            barriers=barriers,
            shared=self.plan.shared_tensors(storage, layouts),
            gmem=GlobalTensors(*loads, *stores, *scratch),
            tmem=cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem),
            band=Band(*band),
            scheduler=LongestFirst(*tiles),
            heads_q=heads[0],
            ratio=heads[1],
            scale=scales[0],
            scale_log2=scales[1],
            rank=cute.arch.block_idx_in_cluster(),
            deterministic=self.deterministic,
        )

        # ---- compute: P and dS of half of the queries; then dK and dV
        if warp < WARPS * HALVES:
            if cutlass.const_expr(config.compute_registers > LAUNCH_REGISTERS):
                cute.arch.setmaxregister_increase(config.compute_registers)
            compute.run(context, warp // WARPS)

        # ---- reduce: dQ
        if warp // WARPS == Role.REDUCE // WARPS:
            cute.arch.setmaxregister_decrease(config.reduce_registers)
            reduce.run(context)

        # ---- the other four warps
        if warp // WARPS == Role.MMA // WARPS:
            cute.arch.setmaxregister_decrease(config.other_registers)
            if warp == Role.MMA:
                if context.rank == 0:
                    mma.run(context)
                else:
                    mma.relay(context)
            if warp == Role.LOAD:
                load.run(context)

        # Tensor memory is read by compute and reduce; who allocated it gives it back. None leaves
        # before the other's last arrival and copy.
        _sync_pair()
        if warp == Role.MMA:
            # Read again, not kept in a register of every role.
            tmem = cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem)
            cute.arch.dealloc_tmem(tmem, TMEM_COLUMNS, is_two_cta=True)
