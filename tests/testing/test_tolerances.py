"""The rule of closeness lets the plain computation through, and little more."""

import contextlib

import numpy as np
import pytest

from jax_fa4.testing import expected, inputs, tolerances

CASES = {case.name: case for case in inputs.CASES}
# Relative errors of lse and of out: a cubic polynomial's for 2^x, and a sixteen-bit ulp and more.
SLIPS = {"lse": 1e-5, "out": 2.0**-6}


def results(name):
    case = CASES[name]
    return expected.both(inputs.make(case, "bfloat16"), case)


@pytest.mark.parametrize("name", ["growing", "growing-256"])
def test_the_plain_computation_is_close(name):
    exact, plain = results(name)
    tolerances.check(plain, exact, plain)


@pytest.mark.parametrize("result", SLIPS)
@pytest.mark.parametrize("name", ["growing", "growing-256"])
def test_a_slip_is_refused(name, result):
    exact, plain = results(name)
    slipped = np.asarray(plain[result], np.float32) * np.float32(1 + SLIPS[result])
    with pytest.raises(AssertionError, match=f"{result}: error"):
        tolerances.check({result: slipped.astype(plain[result].dtype)}, exact, plain)


def test_lse_may_move_by_the_last_bit_of_its_sum():
    """Where it is 0, and its sum 1: the plain computation may be exact there."""
    exact = {"lse": np.zeros(1), "lse_terms": 0.0}
    plain = {"lse": np.zeros(1, np.float32)}
    tolerances.check({"lse": np.full(1, 2.0**-23, np.float32)}, exact, plain)
    with pytest.raises(AssertionError, match="lse: error"):
        tolerances.check({"lse": np.full(1, 2.0**-22, np.float32)}, exact, plain)


@pytest.mark.parametrize("softcap", [5.0, 50.0])
@pytest.mark.parametrize(("bits", "is_right"), [(24, True), (18, False), (11, False)])
def test_a_soft_cap_may_round_tanh_to_a_bit_below_1(softcap, bits, is_right):
    """And not as tanh.approx does, to 11 bits; all of a row slip alike, and so does its lse."""
    case = CASES["square"]
    x = inputs.make(case, "bfloat16")
    options = {"softmax_scale": case.scale, "band": case.band, "softcap": softcap}
    exact, plain = expected.exact(x, **options), expected.plain(x, **options)
    slipped = (exact["lse"] + softcap * 2.0**-bits).astype(np.float32)
    with contextlib.nullcontext() if is_right else pytest.raises(AssertionError, match="lse:"):
        tolerances.check({"lse": slipped}, exact, plain)


@pytest.mark.parametrize(("ulps", "is_right"), [(20, True), (40, False)])
def test_out_may_move_by_the_rounding_of_scores(ulps, is_right):
    """Of terms of 16 in sum, and a value of 2: the plain computation may round them exactly."""
    exact = {"out": np.full(1, 2.0), "out_terms": 2.0, "lse_terms": 16.0}
    plain = {"out": np.full(1, 2.0, np.float32)}
    moved = {"out": np.full(1, 2.0 + ulps * 2.0**-23, np.float32)}
    with contextlib.nullcontext() if is_right else pytest.raises(AssertionError, match="out:"):
        tolerances.check(moved, exact, plain)
