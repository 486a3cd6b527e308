"""What the kernel multiplies and where its tiles lie: products, layouts, copies, shared memory."""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import blackwell_helpers as blackwell

from jax_fa4.kernels.sm100.backward.config import CHUNK, Q_STAGES, TILE, BackwardConfig
from jax_fa4.kernels.sm100.backward.context import (
    WARPS,
    SharedLayouts,
    SharedTensors,
    TiledMmas,
    barrier_table,
)
from jax_fa4.kernels.toolkit import mbarriers

_ONE = tcgen05.CtaGroup.ONE


def tiled_mmas(c: BackwardConfig, dtype) -> TiledMmas:
    """All sums in float32; P^T and dS^T from tensor memory."""
    k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
    make = blackwell.make_trivial_tiled_mma
    tmem = tcgen05.OperandSource.TMEM
    square, of_v, of_k = (TILE, TILE), (TILE, c.head_dim_v), (TILE, c.head_dim)
    return TiledMmas(
        scores=make(dtype, dtype, k_major, k_major, Float32, _ONE, square),
        dv=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_v, tmem),
        dk=make(dtype, dtype, k_major, mn_major, Float32, _ONE, of_k, tmem),
        dq=make(dtype, dtype, mn_major, mn_major, Float32, _ONE, of_k),
    )


def smem_layouts(c: BackwardConfig, dtype, mmas: TiledMmas) -> SharedLayouts:
    """Made anew on each side of the launch: a layout is a value of its region."""
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


def loads(c: BackwardConfig, mma: cute.TiledMma, layouts: SharedLayouts, tensors) -> tuple:
    """TMA atoms and tensors of Q, K, V and dO."""
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


def stores(c: BackwardConfig, layouts: SharedLayouts, mdK: cute.Tensor, mdV: cute.Tensor) -> tuple:
    """TMA atoms and tensors of dK and dV."""
    s2g = cpasync.CopyBulkTensorTileS2GOp()
    one = (None, None, 0)
    make = cpasync.make_tiled_tma_atom
    return (
        tuple(make(s2g, mdK, cute.slice_(layouts.sdK, one), (TILE, c.head_dim))),
        tuple(make(s2g, mdV, cute.slice_(layouts.sdV, one), (TILE, c.head_dim_v))),
    )


def shared_storage(c: BackwardConfig, dtype, layouts: SharedLayouts):
    """The memory map: barriers and statistics, then tiles on 1024-byte boundaries."""

    def tile(layout):
        return cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(layout)], 1024]

    floats = WARPS * c.dq_stages * CHUNK * cute.arch.WARP_SIZE

    @cute.struct
    class SharedStorage:
        barriers: cute.struct.MemRange[Int64, mbarriers.count(barrier_table(c))]
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


def shared_tensors(storage, layouts: SharedLayouts) -> SharedTensors:
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
