"""The one rule of closeness, and what a failure says.

error <= 2 x (error of the plain computation in the same precision) + floor, where both
errors are the largest against float64. The floor is what a correct result may be off by
where the plain one happens to be exact: one ulp of the largest value, and one float32 ulp of
the largest sum of absolute terms (they cancel, and tensor cores truncate such sums where the
plain computation may round them); for out also one such ulp of a score's terms times the largest
value, since P = exp(S - max S) turns the rounding of S into that much; for lse also one float32 ulp
of 1, by which a logarithm moves when what it is of moves by its last bit; for gradients also |lse|
such ulps of the largest value, since P = exp(S - lse) turns the rounding of lse into that much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

Arrays = dict[str, np.ndarray]


def check(actual: Arrays, exact: Arrays, plain: Arrays) -> None:
    """Every array of `actual` is as close to `exact` as `plain` allows; AssertionError if not."""
    assert set(actual) <= set(exact), f"unexpected results {set(actual) - set(exact)}"
    wrong = []
    for name, found in actual.items():
        allowed = bound(name, found.dtype, exact, plain)
        wrong.append(difference(name, found, exact[name], allowed))
    messages = [message for message in wrong if message is not None]
    assert not messages, "\n".join(messages)


def difference(name: str, actual: np.ndarray, exact: np.ndarray, allowed: float) -> str | None:
    """Why `actual` is not close enough, with the place of the largest error; None if it is."""
    if actual.shape != exact.shape:
        return f"{name}: shape {actual.shape}, expected {exact.shape}"
    wide = actual.astype(np.float64)
    infinite = np.isneginf(exact)
    if not np.array_equal(np.isneginf(wide), infinite):
        return f"{name}: -inf in other places than expected"
    if np.isnan(wide).any():
        return f"{name}: {int(np.isnan(wide).sum())} NaN, first at {_place(np.isnan(wide))}"
    error = np.where(infinite, 0.0, np.abs(_finite(wide) - _finite(exact)))
    if error.size == 0 or error.max() <= allowed:
        return None
    place = np.unravel_index(int(np.argmax(error)), error.shape)
    return (
        f"{name}: error {error.max():.3g} > {allowed:.3g} allowed, "
        f"{int((error > allowed).sum())} of {error.size} values; "
        f"worst at {tuple(map(int, place))}: {wide[place]:.6g}, "
        f"expected {exact[place]:.6g}"
    )


def bound(name: str, dtype: Any, exact: Arrays, plain: Arrays) -> float:
    """The largest error allowed for the result `name`, held in `dtype`."""
    plain_error = _largest(_finite(plain[name].astype(np.float64)) - _finite(exact[name]))
    floor = ulp(dtype) * _largest(exact[name])
    floor += ulp(np.float32) * float(exact[f"{name}_terms"])
    if name == "out":
        floor += ulp(np.float32) * float(exact["lse_terms"]) * _largest(exact[name])
    if name == "lse":
        floor += ulp(np.float32)
    if name.startswith("d"):
        floor += ulp(np.float32) * _largest(exact["lse"]) * _largest(exact[name])
    return 2 * plain_error + floor


def _largest(x: np.ndarray) -> float:
    return float(np.abs(_finite(x)).max(initial=0.0))


def ulp(dtype: Any) -> float:
    """The step from 1 to the next number."""
    finfo: Callable[[Any], Any] = jnp.finfo
    return float(finfo(dtype).eps)


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(x), 0.0, x)


def _place(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])
