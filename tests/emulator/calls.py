"""Calls that run the shipped kernels' PTX on the CPU."""

import contextlib
import functools
from unittest import mock

import jax

import jax_fa4
from jax_fa4.emulator import one_kernel
from jax_fa4.ops import selection
from jax_fa4.testing import expected, inputs
from jax_fa4.variants import Form, parse

CASES = {case.name: case for case in inputs.CASES}
SCHEDULES = (  # level, completion, seed
    ("ptx", "earliest", 0),
    ("hardware", "latest", 1),
    ("ptx", "random", 2),
    ("hardware", "random", 3),
)


@contextlib.contextmanager
def forced(form: Form | None):
    """Within it, calls take kernels of this form where there are any, whatever pays.

    Gives the set of all main kernels that calls took, whether forced or by themselves.
    """
    taken: set[str] = set()

    def forcing(choose):
        def for_call(names, call):
            of_form = tuple(name for name in names if form and parse(name).form is form)
            chosen = of_form or choose(names, call)
            taken.update(chosen)
            return chosen

        return for_call

    choices = {name: getattr(selection, name) for name in ("for_call", "backward_for_call")}
    with mock.patch.multiple(selection, **{n: forcing(choose) for n, choose in choices.items()}):
        jax.clear_caches()  # of calls that were traced with another choice
        yield taken
    jax.clear_caches()


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

    def call(q, k, v, **options):
        out, lse = jax_fa4.dot_product_attention(
            q,
            k,
            v,
            scale=case.softmax_scale,
            is_causal=case.causal,
            local_window_size=case.window,
            return_residual=True,
            implementation="emulator",
            **options,
        )
        return out, lse.transpose(0, 2, 1)

    return call


def gradients_under(case, x, schedule, **options):
    """By the Blackwell kernels, in one order of events."""
    level, completion, seed = schedule
    call = functools.partial(emulated(case), **options)
    with jax_fa4.emulator.options(arch="sm100", level=level, completion=completion, seed=seed):
        return expected.results(call, x, gradients=True)


def by_name(case, name):
    """A case on the kernel `name`, which calls may not choose by themselves."""

    def call(q, k, v):
        return one_kernel.forward(name, q, k, v, softmax_scale=case.scale, band=case.band)

    return call


def emulated_fp8(case):
    """The same with descales behind q, k and v, which level 2 alone takes."""
    assert case.alignment == "bottom_right"

    def call(q, k, v, *descales):
        names = ("query_descale", "key_descale", "value_descale")
        return emulated(case)(q, k, v, **dict(zip(names, descales, strict=True)))

    return call
