"""The memory map of a Hopper backward's CTA."""

# No `from __future__ import annotations` here: cute.struct reads annotations as objects.
import cutlass.cute as cute
from cutlass import Float32, Int64
from cutlass.cute.nvgpu import warpgroup
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as hopper

from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP
from jax_fa4.kernels.sm90.backward.context import SharedTensors


def tile_rows(dtype, count, columns, stages, part=None) -> cute.ComposedLayout:
    """Swizzled, a tile's rows as operands read them."""
    # What reads `part` of the columns begins and ends with a swizzled line.
    kind = hopper.get_smem_layout_atom(LayoutEnum.ROW_MAJOR, dtype, part or columns)
    atom = warpgroup.make_smem_layout_atom(kind, dtype)
    return cute.tile_to_shape(atom, (count, columns, stages), order=(0, 1, 2))


def smem_layouts(config, dtype) -> dict[str, cute.ComposedLayout]:
    """By name of `SharedTensors`; made anew on each side of the launch."""

    def rows(count, columns, stages, part=None):
        return tile_rows(dtype, count, columns, stages, part)

    ds_tiles = config.ctas * config.consumers * config.ds_stages
    layouts = {
        "sK": rows(KEYS_PER_WARPGROUP, config.head_dim, config.consumers, config.query_columns),
        "sV": rows(KEYS_PER_WARPGROUP, config.head_dim_v, config.consumers),
    }
    if config.ctas > 1:
        columns = config.head_dim // config.ctas
        layouts["sOtherK"] = rows(KEYS_PER_WARPGROUP, columns, config.consumers)
    return layouts | {
        "sQ": rows(config.tile_m, config.query_columns, config.q_stages),
        "sdO": rows(config.tile_m, config.gradient_columns, config.do_stages),
        "sdS": rows(KEYS_PER_WARPGROUP, config.tile_m, ds_tiles),
    }


def shared_storage(config, dtype, barriers: int, layouts):
    """A struct: barriers and rows, then tiles on 1024-byte boundaries for the swizzle."""

    def rows(stages):
        return cute.struct.Align[cute.struct.MemRange[Float32, stages * config.tile_m], 128]

    def tile(layout):
        return cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(layout)], 1024]

    fields = {
        "barriers": cute.struct.MemRange[Int64, barriers],
        "sLSE": rows(config.q_stages),
        "sDelta": rows(config.do_stages),
    }
    fields |= {name: tile(layout) for name, layout in layouts.items()}
    return cute.struct(type("SharedStorage", (), {"__annotations__": fields}))


def shared_tensors(config, storage, layouts) -> SharedTensors:
    """Views of the struct."""

    def rows(name, stages):
        return getattr(storage, name).get_tensor(cute.make_layout(stages * config.tile_m))

    def tensor(name):
        layout = layouts[name]
        return getattr(storage, name).get_tensor(layout.outer, swizzle=layout.inner)

    return SharedTensors(
        **{name: tensor(name) for name in layouts},
        sLSE=rows("sLSE", config.q_stages),
        sDelta=rows("sDelta", config.do_stages),
    )
