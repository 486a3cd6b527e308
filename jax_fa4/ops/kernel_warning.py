"""What it costs that one argument keeps a call off the kernel, said once for each."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace

from jax_fa4.variants.problem import Problem

_DENSE = (
    ", with the (batch, heads, T, S) {} read from memory. Say a causal mask or window with "
    "is_causal= and local_window_size= instead"
)
_MOD = ". Say what masks, windows, segment ids and lengths can say with their arguments instead"
# In the order of `refusal`: the argument, and what follows on its cost.
_ARGUMENTS = {
    "has_bias": ("bias", _DENSE.format("bias")),
    "has_mask": ("mask", _DENSE.format("mask")),
    "has_mods": ("score_mod or mask_mod", _MOD),
    "has_dropout": ("dropout_rate", ". Drop outputs of the layer instead"),
}


def without(problem: Problem) -> Problem:
    """The problem less all arguments that kernels never take."""
    return replace(problem, has_bias=False, has_mask=False, has_mods=False, has_dropout=False)


def warn(problem: Problem) -> None:
    """Say that the first of them keeps the call off a kernel that would otherwise run it."""
    _warn_once(next(name for name in _ARGUMENTS if getattr(problem, name)))


@functools.cache
def _warn_once(field: str) -> None:
    argument, cost = _ARGUMENTS[field]
    warnings.warn(
        f"jax_fa4: {argument} is given, which the kernels do not take, so this call runs on the "
        f"portable path: several times slower{cost}, or pass implementation='xla' to choose this "
        "path without the warning.",
        UserWarning,
        stacklevel=2,
    )
