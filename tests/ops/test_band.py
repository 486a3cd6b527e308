"""The band is the mask that each convention means."""

import numpy as np
import pytest

from jax_fa4.ops import reference
from jax_fa4.ops.band import FULL, UNBOUNDED, Band


def kept(sq, sk, **options):
    return np.asarray(reference.kept(Band.make(sq, sk, **options), sq, sk))


def test_full():
    assert Band.make(3, 5) == FULL
    assert kept(3, 5).all()


@pytest.mark.parametrize(("sq", "sk"), [(4, 4), (3, 6), (6, 3)])
def test_causal_alignments(sq, sk):
    ones = np.ones((sq, sk), bool)
    assert np.array_equal(kept(sq, sk, causal=True), np.tril(ones))
    bottom_right = kept(sq, sk, causal=True, alignment="bottom_right")
    assert np.array_equal(bottom_right, np.tril(ones, sk - sq))


@pytest.mark.parametrize("alignment", ["top_left", "bottom_right"])
def test_window(alignment):
    mask = kept(4, 6, window=(2, 1), alignment=alignment)
    shift = 2 if alignment == "bottom_right" else 0
    for i in range(4):
        assert list(np.flatnonzero(mask[i])) == [
            j for j in range(6) if i + shift - 2 <= j <= i + shift + 1
        ]


def test_causal_cuts_the_window():
    assert Band.make(9, 9, causal=True, window=(3, 5)) == Band(-3, 0)
    assert Band.make(9, 9, window=(None, 5)) == Band(-UNBOUNDED, 5)


def test_bounds_stay_in_int32():
    band = Band.make(1, 2**30 - 1, window=(2**40, 2**40), alignment="bottom_right")
    assert band == FULL
