"""Calls that run the shipped kernels' PTX on the CPU."""

import functools

import jax_fa4
from jax_fa4.testing import inputs

CASES = {case.name: case for case in inputs.CASES}


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
