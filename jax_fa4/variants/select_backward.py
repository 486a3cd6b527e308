"""Which form of the backward's main kernel runs a call, where several serve it."""

from __future__ import annotations

from collections.abc import Sequence

from jax_fa4.variants import select_sm90, select_sm100_backward
from jax_fa4.variants.problem import Call
from jax_fa4.variants.variant import Arch, BackwardVariant, Form

# (architecture, head dim, head dim of V) -> the form that is faster than the usual one there.
PREFERRED: dict[tuple[Arch, int, int], Form] = {}


def fastest(forms: Sequence[BackwardVariant], call: Call) -> BackwardVariant:
    """The preferred one of `forms`, kernels that differ in nothing else; the first if none is.

    On Hopper, and where there are modelled cycles of forms, that depends on the call.
    """
    first = forms[0]
    if first.arch is Arch.SM90:
        return select_sm90.fastest(forms, call)
    if (first.head_dim, first.head_dim_v, Form.PAIR) in select_sm100_backward.COSTS:
        return select_sm100_backward.fastest(forms, call)
    wanted = PREFERRED.get((first.arch, first.head_dim, first.head_dim_v), Form.USUAL)
    return next((v for v in forms if v.form is wanted), first)
