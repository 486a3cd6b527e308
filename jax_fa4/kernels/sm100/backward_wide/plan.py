"""What the kernel multiplies and where its tiles lie: products, layouts, loads, memory map."""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward_wide.config import (
    HALVES,
    STATS_STAGES,
    STREAM,
    TILE,
    Gradient,
    WideConfig,
)
from jax_fa4.kernels.sm100.backward_wide.context import (
    SharedLayouts,
    SharedTensors,
    TiledMmas,
    barrier_table,
)
from jax_fa4.kernels.toolkit import mbarriers

_ONE = tcgen05.CtaGroup.ONE


def tiled_mmas(c: WideConfig, dtype) -> TiledMmas:
    """All sums in float32; P and dS from tensor memory."""
    k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
    make = blackwell.make_trivial_tiled_mma
    tmem = tcgen05.OperandSource.TMEM
    scores, of_k, of_v = (TILE, STREAM), (TILE, c.head_dim), (TILE, c.head_dim_v)
    return TiledMmas(
        from_tmem=make(dtype, dtype, k_major, k_major, Float32, _ONE, scores, tmem),
        from_smem=make(dtype, dtype, k_major, k_major, Float32, _ONE, scores),
        wide=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_k, tmem),
        dv=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_v, tmem),
    )


def smem_layouts(c: WideConfig, dtype, mmas: TiledMmas) -> SharedLayouts:
    """Made anew on each side of the launch: a layout is a value of its region."""
    scores = mmas.from_smem
    a, b = blackwell.make_smem_layout_a, blackwell.make_smem_layout_b
    of_k, of_v = (TILE, STREAM, c.head_dim), (TILE, STREAM, c.head_dim_v)
    to_k, to_v = (TILE, c.head_dim, STREAM), (TILE, c.head_dim_v, STREAM)
    return SharedLayouts(
        first=b(scores, of_k, dtype, c.first_stages),
        first_t=b(mmas.wide, to_k, dtype, c.first_stages),
        second=b(scores, of_v, dtype, c.second_stages),
        second_t=b(mmas.dv, to_v, dtype, c.second_stages),
        own_first=a(scores, of_k, dtype, 1),
        own_second=a(scores, of_v, dtype, 1),
    )


def loads(c: WideConfig, mma: cute.TiledMma, layouts: SharedLayouts, tensors) -> tuple:
    """TMA atoms and tensors of blocks of Q, K, V and dO, and of own rows."""
    mQ, mK, mV, mdO = tensors
    one = (None, None, None, 0)
    g2s = cpasync.CopyBulkTensorTileG2SOp(_ONE)
    cluster = cute.tiled_divide(cute.make_layout((1, 1, 1)), (mma.thr_id.shape,)).shape
    a, b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B
    of_k, of_v = (TILE, STREAM, c.head_dim), (TILE, STREAM, c.head_dim_v)
    first, second = (cute.slice_(x, one) for x in (layouts.first, layouts.second))
    own_of = {
        Gradient.DK: (mV, layouts.own_second, of_v),
        Gradient.DQ: (mdO, layouts.own_second, of_v),
        Gradient.DK_DV: (mK, layouts.own_first, of_k),
    }
    own = tuple(own_of[g] for g in c.gradients if c.shares_own(g))
    return (
        tuple(b(g2s, mQ, first, of_k, mma, cluster)),
        tuple(b(g2s, mK, first, of_k, mma, cluster)),
        tuple(b(g2s, mV, second, of_v, mma, cluster)),
        tuple(b(g2s, mdO, second, of_v, mma, cluster)),
        *(tuple(a(g2s, m, cute.slice_(x, one), of, mma, cluster)) for m, x, of in own),
    )


def shared_storage(c: WideConfig, dtype, layouts: SharedLayouts):
    """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""

    def tile(layout):
        return cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(layout)], 1024]

    @cute.struct
    class SharedStorage:
        barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table(c))]
        tmem: Int32
        stats: cute.struct.Align[
            cute.struct.MemRange[Float32, STREAM * 2 * STATS_STAGES],
            128,
        ]
        unread: cute.struct.MemRange[Int32, HALVES * TILE]
        first: tile(layouts.first)
        second: tile(layouts.second)

    return SharedStorage


def shared_tensors(c: WideConfig, dtype, storage, layouts: SharedLayouts) -> SharedTensors:
    def tensor(field, layout):
        return field.get_tensor(layout.outer, swizzle=layout.inner)

    def own(field, layout, width, stages):
        """In the place of the last stages. A swizzle is of addresses, whole patterns apart."""
        place = field.data_ptr() + STREAM * width * (stages - TILE // STREAM)
        place = cute.recast_ptr(place, layout.inner, dtype=dtype)
        return cute.make_tensor(place, layout.outer)

    stats = cute.make_layout((STREAM, 2, STATS_STAGES))
    return SharedTensors(
        first=tensor(storage.first, layouts.first),
        first_t=tensor(storage.first, layouts.first_t),
        second=tensor(storage.second, layouts.second),
        second_t=tensor(storage.second, layouts.second_t),
        own_first=own(storage.first, layouts.own_first, c.head_dim, c.first_stages),
        own_second=own(storage.second, layouts.own_second, c.head_dim_v, c.second_stages),
        stats=storage.stats.get_tensor(stats),
        unread=storage.unread.get_tensor(cute.make_layout(HALVES * TILE)),
    )
