"""The scratch of a backward call, beside what its kernels need."""

import pytest

from jax_fa4.variants.workspace import Workspace


@pytest.mark.parametrize(("seqlen", "rows"), [(1, 128), (128, 128), (129, 256), (16384, 16384)])
def test_rows_are_whole_tiles(seqlen, rows):
    found = Workspace.of_width(64, batch=2, heads_q=3, seqlen_q=seqlen)
    assert found.delta == found.lse_log2 == (2, 3, rows)
    assert found.dq_accum == (2, 3, rows, 64)
    assert found.semaphores == (2, 3, rows // 64)


def test_it_is_as_wide_as_the_widest_kernel():
    names = ("bwd_sm90_bf16_d64", "bwd_sm100_bf16_d96_v64")
    assert Workspace.of(names, batch=1, heads_q=1, seqlen_q=1).dq_accum[3] == 96


def test_bytes_are_linear_in_the_length():
    """Two numbers a row and dq in float32; one semaphore for 64 rows."""
    found = Workspace.of_width(128, batch=1, heads_q=16, seqlen_q=16384)
    assert found.bytes == 16 * 16384 * (4 * 128 + 8) + 16 * 16384 // 64 * 4
