"""Approximate functions: their special values exactly, the others within what the manual allows."""

import numpy as np
import pytest

INF, NAN = np.float32(np.inf), np.float32(np.nan)
TINY = np.float32(1e-40)  # flushed to zero

SPECIAL = {
    "ex2_approx_ftz_f32": [
        (-INF, 0),
        (INF, INF),
        (0, 1),
        (-0.0, 1),
        (TINY, 1),
        (NAN, NAN),
        (3, 8),
        (-126, 2.0**-126),
        (-127, 0),
        (128, INF),
    ],
    "lg2_approx_ftz_f32": [
        (0, -INF),
        (TINY, -INF),
        (INF, INF),
        (1, 0),
        (8, 3),
        (-1, NAN),
        (NAN, NAN),
    ],
    "rcp_approx_ftz_f32": [
        (0, INF),
        (-0.0, -INF),
        (TINY, INF),
        (INF, 0),
        (-INF, -0.0),
        (4, 0.25),
        (NAN, NAN),
        (2.0**127, 0),
    ],
    "rsqrt_approx_ftz_f32": [
        (0, INF),
        (-0.0, -INF),
        (TINY, INF),
        (INF, 0),
        (4, 0.5),
        (-1, NAN),
        (NAN, NAN),
    ],
    "tanh_approx_f32": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN)],
}
FUNCTIONS = {
    "ex2_approx_ftz_f32": (np.exp2, (-120, 120)),
    "lg2_approx_ftz_f32": (np.log2, (1e-30, 1e30)),
    "rcp_approx_ftz_f32": (lambda x: 1 / x, (-1e20, 1e20)),
    "rsqrt_approx_ftz_f32": (lambda x: 1 / np.sqrt(x), (1e-30, 1e30)),
    "tanh_approx_f32": (np.tanh, (-8, 8)),
}


def allowed(name, values, exact):
    """The largest error by the manual."""
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    if name.startswith("lg2"):
        # Absolute where the argument is near one, relative elsewhere.
        near = (values > 0.5) & (values < 2)
        return np.where(near, 2.0**-22, 2.0**-22 * np.abs(exact))
    bound = {
        "ex2": 2 * ulp,
        "rcp": ulp,
        "rsqrt": 2.0**-22.4 * np.abs(exact),
        "tanh": 2.0**-11 * np.abs(exact),
    }
    return bound[name.split("_")[0]]


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(run_file, name):
    rows = SPECIAL[name] + [(1, np.nan)] * (128 - len(SPECIAL[name]))
    values = np.array([value for value, _ in rows], np.float32)
    got = np.zeros(128, np.float32)
    run_file(name, got, values, block=(128, 1, 1))
    for (value, expected), result in list(zip(rows, got, strict=True))[: len(SPECIAL[name])]:
        if np.isnan(expected):
            assert np.isnan(result), (value, result)
        else:
            assert result == expected, (value, result)
            assert np.signbit(result) == np.signbit(np.float32(expected)), (value, result)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(run_file, name):
    function, (low, high) = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    if low > 0:
        values = np.exp(rng.uniform(np.log(low), np.log(high), 2048)).astype(np.float32)
    else:
        values = rng.uniform(low, high, 2048).astype(np.float32)
        values[::2] = rng.uniform(-1, 1, 1024).astype(np.float32)
    got = np.zeros(2048, np.float32)
    run_file(name, got, values, grid=(16, 1, 1), block=(128, 1, 1))
    exact = function(values.astype(np.float64))
    assert (np.abs(got - exact) <= allowed(name, values, exact)).all()
