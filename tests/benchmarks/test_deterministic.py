"""The benchmark of gradients in a fixed order: which kernels, which work, what it writes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import deterministic
from benchmarks.cells import Cell
from benchmarks.deterministic import Backward

CELL = Cell(head_dim=128, seqlen=2048, mask="causal", pass_="fwdbwd")


def test_five_products_count():
    assert Backward(CELL, 1).flops == 2.5 * 4 * 8 * 16 * 2048**2 * 128 / 2
    wide = Cell(head_dim=192, head_dim_v=128, seqlen=2048, mask="full", pass_="fwdbwd")
    assert Backward(wide, 1).flops == 2 * 8 * 16 * 2048**2 * (3 * 192 + 2 * 128)


def test_groups_share_keys():
    shapes = Backward(CELL, 4).shapes()
    assert [x.shape[2] for x in shapes[:5]] == [16, 4, 4, 16, 16]
    assert shapes.lse.shape == (8, 16, 2048)


def test_rows_name_both_kernels(hopper):
    one = Backward(CELL, 4)
    line = deterministic.row(one, [500.0, 430.0], True)
    assert (
        line == "| 128 | 4 | causal | 2048 | 500 | d128 | 430 | d128_pair_deterministic | 0.86 |\n"
    )
    assert "| BITS DIFFER |" in deterministic.row(one, [500.0, 430.0], False)
    assert deterministic.row(one, [500.0], True).endswith(
        "| 500 | d128 | - | none: portable | - |\n"
    )


@pytest.mark.parametrize("differ", [False, True])
def test_bits_are_compared(monkeypatch, differ):
    """-0 for 0 is a difference, too."""
    zeros = iter(range(1000))

    def program(inputs):
        sign = -1.0 if differ and next(zeros) % 7 == 6 else 1.0
        return [jnp.full((2, 3), sign * 0.0, jnp.bfloat16) for _ in inputs]

    monkeypatch.setattr(deterministic, "_drawn", lambda shapes: [np.zeros(2)] * 4)
    speeds, same = deterministic.measure(Backward(CELL, 1), [program, program], rounds=2)
    assert len(speeds) == 2
    assert same is not differ
    assert len(deterministic.measure(Backward(CELL, 1), [program, None], rounds=1)[0]) == 1


def test_lse_fits_the_scores():
    shapes = Backward(
        Cell(head_dim=8, seqlen=64, mask="full", pass_="fwdbwd", tokens=64, hidden=16), 1
    )
    q, k, *_, lse, _ = deterministic._drawn(shapes.shapes())[0]
    scores = jnp.einsum("bihd,bjhd->bhij", q.astype(jnp.float32), k.astype(jnp.float32)) / 8**0.5
    true = jax.scipy.special.logsumexp(scores, axis=-1)
    assert abs(float((true - lse).mean())) < 0.5
