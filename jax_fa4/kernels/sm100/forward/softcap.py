"""A row of scores under a softcap: see `toolkit.softcap`."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute

from jax_fa4.kernels.toolkit.softcap import capped


@cute.jit
def cap(context, scores: cute.Tensor) -> None:
    """Raw scores to their tanh, in place."""
    for c in cutlass.range_constexpr(cute.size(scores)):
        scores[c] = capped(scores[c], context.slope)
