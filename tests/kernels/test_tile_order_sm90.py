"""In what groups of heads Hopper's backward hands out its tiles."""

import pytest

pytest.importorskip("cutlass")

import cutlass
from turns_model import as_python

from jax_fa4.kernels.sm90.backward import base, config
from jax_fa4.kernels.toolkit.forward_arrays import Shape

L2_HEADS = 4  # of 8192 queries and dQ's sums, which fit


def heads_per_group(heads, heads_kv, batch, is_cut):
    kernel = base.HopperBackward.__new__(base.HopperBackward)
    kernel.config, kernel.dtype = config.BACKWARD_CONFIGS[128], cutlass.BFloat16
    shape = Shape(batch, 8192, 8192, heads, heads_kv, 128, 128)
    with as_python():
        scheduler, rest = kernel._order(shape, 132, is_cut)
    assert rest == ()
    return scheduler.heads_per_group


@pytest.mark.parametrize(
    ("heads", "heads_kv", "batch", "is_cut", "found"),
    [
        (16, 16, 2, False, L2_HEADS),
        (16, 16, 2, True, L2_HEADS),
        (16, 4, 4, False, 1),
        # Long tiles, which would begin late in later groups: more heads begin together.
        (16, 4, 4, True, 8),
        (16, 2, 2, True, 4),  # all
        (32, 16, 1, False, 2),
        (32, 16, 1, True, 8),
    ],
)
def test_heads_that_begin_together(heads, heads_kv, batch, is_cut, found):
    assert heads_per_group(heads, heads_kv, batch, is_cut) == found
