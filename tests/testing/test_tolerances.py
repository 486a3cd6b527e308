"""The rule of closeness lets the plain computation through, and little more."""

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
