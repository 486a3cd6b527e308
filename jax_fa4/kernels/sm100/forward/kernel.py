"""The Blackwell forward: O = softmax(scale * Q K^T, within the band) V, lse per row.

Usually a CTA has two tiles of 128 queries, 0 and 1, so that the tensor core multiplies for one
while the softmax of the other runs; S, P and O have columns of their own in tensor memory. A CTA
with one tile (head dim 256, for which tensor memory has no second O, and the form for few queries)
has two slots of scores instead, to which it gives its blocks of keys in turn, and P takes the place
of S: the modules `*_one_tile`.

    load warp --TMA--> sQ[t] --+
                               +--> MMA warp: S[t] = Q[t] K^T --> tensor memory
    load warp --TMA--> ring ---+                  |
         (K and V in turn)     |    softmax warpgroup t: a thread a row; S[t] to P[t]
                               |                  |   row scales through sStats[t]
                               |    correction warpgroup: O[t] *= scale, where it matters
                               |                  |
                               +--> MMA warp: O[t] += P[t] V --> tensor memory
                                                  |
    store warp <-- sO <-- correction warpgroup: O[t] / sum, to 16 bits; lse

| barrier    | stages    | a phase ends when                       | who waits          |
|------------|-----------|-----------------------------------------|--------------------|
| q_full     | q_tiles   | TMA: Q[t] is in sQ[t]                   | MMA                |
| q_empty    | q_tiles   | the tile's last product with Q[t]       | load               |
| kv_full    | kv_stages | TMA: a block of K or of V, or a part    | MMA                |
| kv_empty   | kv_stages | every product with it                   | load               |
| s_full     | 2         | S[t], and every product before it       | softmax t          |
| s_empty    | s slots   | 4 softmax warps have read the slot      | MMA                |
| pv_ready   | 2         | 4 softmax warps: 3/4 of P[t]            | MMA                |
|            |           | 4 correction warps: O[t] is scaled, or  |                    |
|            |           | the tile before was read out            |                    |
| p_tail     | 2         | 4 softmax warps: the last 1/4 of P[t]   | MMA, mid product   |
| p_empty    | 2         | every product with V, of tile t         | softmax t          |
| stats_full | 4 outputs | a softmax warp: sums of its 32 rows;    | a correction warp  |
|            |           | with one tile their scales, too         |                    |
| stats_empty| 4 outputs | a correction warp has read them         | a softmax warp     |
| o_full     | outputs   | the tile's last product into O[t]; with | correction         |
|            |           | one O for two slots, every one          |                    |
| o_staged   | q_tiles   | 4 correction warps: a part of an O      | store              |
| o_stored   | q_tiles   | the TMA store has read it               | correction         |
| claim_due  | 1         | the load warp nears its tile's end      | schedule           |
| claim_full | 1         | the answer to a claim is there          | schedule           |
| tile_full  | 2         | the next tile's number is there         | all other warps    |
| tile_empty | 2         | all other warps have read it            | schedule           |

Where warps arrive, it is one lane of each, or, `by_lanes` in `context.barrier_table`, all of them.
With two tiles the scale of every block goes by a named barrier (`roles.NamedBarrier`). With one,
nobody uses s_empty and p_empty: the next S and the next P wait for the product with V by the order
of products.

A pair of CTAs (`config.cta_group` 2) multiplies together. Tile t of both is one product of 256
rows: each CTA has its own 128 of Q, S, P, O, and half of every block, of K the keys, of V the
columns, so that a stage of the ring is half as large and every block is read half as often.

                    CTA 0, the leader                    CTA 1
    shared memory   Q[t] rows   0..127, K keys  0..63    Q[t] rows 128..255, K keys 64..127
                    V columns 0..d/2                     V columns d/2..d
    load warp       announces the bytes of both          copies, too; completes at CTA 0's barrier
    MMA warp        issues for both, arrives at both     idle
    softmax, corr.  own rows; arrive at CTA 0            own rows; arrive at CTA 0

Barriers whose `paired` is set in `context.barrier_table` work so; the others are each CTA's own,
and stats_empty also answers for scales, which no barrier of both orders. Both walk the same tiles
of 512 rows, and all blocks that any of a product's 256 rows sees; a CTA without rows takes part.
Without a pair, nothing of this is in the code.

With bounds of rows in the place of the band (`kernel_bounded`), every tile has a CTA of its own.
In the form `dynamic` CTAs claim tiles (`schedule`): the last four barriers are there only then.

Every role walks the same tiles (`schedulers`) and, for each t, the same blocks (`block_range` of
its own rows, 128 or a pair's 256): under a causal band tile 0 skips the last block of tile 1.
The MMA warp runs through the ends of tiles: the next tile's first S is issued before this tile's
last O is read out.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, max, min
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from jax_fa4.kernels.sm100.forward import dispatch
from jax_fa4.kernels.sm100.forward.config import ROWS, TMEM_COLUMNS
from jax_fa4.kernels.sm100.forward.configs import config_of
from jax_fa4.kernels.sm100.forward.context import Context, Further, barrier_table
from jax_fa4.kernels.sm100.forward.plan import Plan
from jax_fa4.kernels.sm100.forward.roles import THREADS, Role
from jax_fa4.kernels.toolkit import mbarriers, softcap
from jax_fa4.kernels.toolkit.block_range import Band, cuts_nothing
from jax_fa4.kernels.toolkit.forward_arrays import (
    ELEMENT_TYPES,
    LOG2_E,
    Descales,
    GlobalTensors,
    Shape,
)
from jax_fa4.kernels.toolkit.head_packing import HeadPacking, fewest_tiles
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds
from jax_fa4.kernels.toolkit.schedulers import LongestFirst
from jax_fa4.variants.variant import ForwardVariant


def _sync(paired: bool) -> None:
    """All threads of the CTA, or of both CTAs of the pair."""
    if paired:
        cute.arch.cluster_arrive()
        cute.arch.cluster_wait()
    else:
        cute.arch.sync_threads()


class ForwardSm100:
    """One compiled forward kernel for Blackwell; see the module's docstring."""

    def __init__(self, variant: ForwardVariant):
        self.config = config_of(variant)
        self.dtype = ELEMENT_TYPES[variant.dtype]
        self.plan = Plan(self.config, self.dtype, ELEMENT_TYPES[variant.dtype.output])

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        out_ptr: cute.Pointer,
        lse_ptr: cute.Pointer,
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
        """Launch on `stream`; pointers are to contiguous BSHD arrays and a BHS lse."""
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        self.launch(
            (q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr),
            Further(),
            shape,
            softmax_scale,
            (band_lower, band_upper),
            sm_count,
            stream,
        )

    @cute.jit
    def launch(
        self,
        pointers: tuple[cute.Pointer, ...],  # q, k, v, out, lse
        further: Further,
        shape: Shape,
        softmax_scale: Float32,
        band: tuple[Int32, Int32],
        sm_count: Int32,
        stream: cuda.CUstream,
    ):
        """What entry points with other arguments share."""
        config, (q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr) = self.config, pointers
        mQ, mK, mV = shape.queries(q_ptr), shape.keys(k_ptr), shape.values(v_ptr)
        mO, mLSE = shape.outputs(out_ptr), shape.rows(lse_ptr)

        qk, pv = self.plan.tiled_mmas()
        layouts = self.plan.smem_layouts(qk, pv)
        group = config.cta_group
        tma_q, tma_k, tma_v, tma_o = self.plan.whole_tiles(qk, pv, layouts, (mQ, mK, mV, mO))

        boxes, tokens = (), ()
        if cutlass.const_expr(config.q_tiles == 1):
            boxes, tokens = (
                self.plan.boxes(mQ, mO),
                (fewest_tiles(shape.seqlen_q, shape.ratio, config.cta_group),),
            )
            packing = HeadPacking(tokens[0], shape.ratio)
            scheduler = shape.packed_scheduler(packing, config.cta_group, self.dtype)
        else:
            scheduler = shape.scheduler(config.tile_m, self.dtype)
        tiles = scheduler.tiles()
        # Tiles that differ in length are left to the hardware, one a CTA, longest first; so are all
        # where a CTA may claim those of others.
        stay = cuts_nothing(shape.band(*band))
        if cutlass.const_expr(config.claims_tiles or config.bounded):
            stay = Boolean(False)
        scale_log2, slope = softmax_scale * LOG2_E, ()
        if cutlass.const_expr(config.softcap):
            *slope, scale_log2 = softcap.factors(softmax_scale, further.softcap)
        fast = config.divides_by_products
        self.kernel(
            (qk, pv),
            tma_q,
            tma_k,
            tma_v,
            tma_o,
            boxes,
            mLSE,
            tuple(shape.descale(pointer) for pointer in further.descales),
            further.bounds,
            (*band, shape.seqlen_q, shape.seqlen_k),
            (scheduler.row_blocks, scheduler.heads, shape.batch, scheduler.heads_per_group),
            scheduler.make_divisors() if fast else (),
            (shape.ratio, *((cute.fast_divmod_create_divisor(shape.ratio),) if fast else ())),
            tokens,
            scale_log2,
            tuple(slope),
        ).launch(
            grid=((min(tiles, max(sm_count // group, 1)) if stay else tiles) * group, 1, 1),
            block=(THREADS, 1, 1),
            cluster=(group, 1, 1) if group > 1 else None,
            stream=stream,
            min_blocks_per_mp=1,
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mmas: tuple[cute.TiledMma, cute.TiledMma],
        q: tuple[cute.CopyAtom, cute.Tensor],
        k: tuple[cute.CopyAtom, cute.Tensor],
        v: tuple[cute.CopyAtom, cute.Tensor],
        o: tuple[cute.CopyAtom, cute.Tensor],
        boxes: tuple,  # TMA atoms and tensors of `Boxes`; or ()
        mLSE: cute.Tensor,
        descales: tuple[cute.Tensor, ...],  # of q, k, v; or ()
        bounds: tuple[cute.Pointer, ...],  # as of `Further`
        band: tuple[Int32, Int32, Int32, Int32],
        tiles: tuple[Int32, Int32, Int32, Int32],
        divisors: tuple[cute.FastDivmodDivisor, ...],  # of `LongestFirst`
        ratio: tuple,  # query heads a KV head, and that as a divisor where there are any
        tokens: tuple[Int32, ...],  # positions a tile of packed rows; or ()
        scale_log2: Float32,
        slope: tuple[Float32, ...],  # of the softcap; or ()
    ):
        config, paired = self.config, self.config.cta_group == 2
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        layouts = self.plan.smem_layouts(*tiled_mmas)
        storage = SmemAllocator().allocate(self.plan.shared_storage(layouts))
        barriers = mbarriers.allocate(barrier_table(config), storage.barriers.data_ptr())
        if warp == Role.LOAD:
            for atom, _ in (q, k, v, o, *boxes):
                cpasync.prefetch_descriptor(atom)
            with cute.arch.elect_one():
                mbarriers.initialise(barriers)
            cute.arch.mbarrier_init_fence()
        if warp == Role.MMA:
            cute.arch.alloc_tmem(TMEM_COLUMNS, storage.tmem, is_two_cta=paired)
            cute.arch.relinquish_tmem_alloc_permit(is_two_cta=paired)
        _sync(paired)

        context = Context(
            config=config,
            dtype=self.dtype,
            out_dtype=self.plan.out_dtype,
            tiled_mma_qk=tiled_mmas[0],
            tiled_mma_pv=tiled_mmas[1],
            barriers=barriers,
            shared=self.plan.shared_tensors(storage, layouts),
            gmem=GlobalTensors(q, k, v, o, mLSE),
            tmem=cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem),
            band=Band(*band),
            scheduler=LongestFirst(*tiles, divisors),
            ratio=ratio[-1],
            packing=HeadPacking(
                tokens[0] if cutlass.const_expr(len(tokens) > 0) else ROWS, ratio[0]
            ),
            boxes=self.plan.boxes_of(boxes, storage),
            scale_log2=scale_log2,
            rank=cute.arch.block_idx_in_cluster() if cutlass.const_expr(paired) else 0,
            descales=Descales(*descales) if cutlass.const_expr(len(descales) > 0) else None,
            bounds=KeyBounds(*bounds[:-1], *band[2:])
            if cutlass.const_expr(config.bounded)
            else None,
            sinks=bounds[-1] if cutlass.const_expr(config.bounded) else None,
            slope=slope[0] if cutlass.const_expr(config.softcap) else None,
        )

        dispatch.run(context, warp)

        # Tensor memory is read by softmax and correction; who allocated it gives it back. Of a
        # pair, none leaves before the other's last arrival.
        _sync(paired)
        if warp == Role.MMA:
            # Read again, not kept in a register of every role.
            tmem = cute.arch.retrieve_tmem_ptr(Float32, 16, storage.tmem)
            cute.arch.dealloc_tmem(tmem, TMEM_COLUMNS, is_two_cta=paired)
