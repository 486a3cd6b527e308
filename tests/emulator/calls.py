"""Calls that run the shipped kernels' PTX on the CPU."""

import contextlib
import functools
from dataclasses import replace
from unittest import mock

import jax_fa4
from jax_fa4.ops import selection
from jax_fa4.testing import inputs
from jax_fa4.variants import CATALOG, Form

CASES = {case.name: case for case in inputs.CASES}


@contextlib.contextmanager
def forced(form: Form):
    """Within it, calls take the kernel of this form where there is one, whatever pays."""

    def variants(problem, built=None):
        chosen = choose(problem, built)
        return tuple(other if (other := replace(v, form=form)) in CATALOG else v for v in chosen)

    choose = selection.forward_variants
    with mock.patch.object(selection, "forward_variants", variants):
        yield


def emulated(case):
    """The public call of a case, with the case's alignment, on the emulator."""
    if case.alignment == "bottom_right":
        return functools.partial(
            jax_fa4.flash_attention,
            softmax_scale=case.softmax_scale,
            causal=case.causal,
            window_size=case.window,
            return_lse=True,
            implementation="emulator",
        )

    def call(q, k, v):
        out, lse = jax_fa4.dot_product_attention(
            q,
            k,
            v,
            scale=case.softmax_scale,
            is_causal=case.causal,
            local_window_size=case.window,
            return_residual=True,
            implementation="emulator",
        )
        return out, lse.transpose(0, 2, 1)

    return call
