"""What keeps a call off the kernel says so, once, and what that costs."""

import warnings
from dataclasses import replace

import pytest

from jax_fa4.ops import selection
from jax_fa4.variants.problem import Problem

PLAIN = Problem(dtype="bfloat16", head_dim=128, softmax_scale=0.1)
MASKED = replace(PLAIN, has_mask=True)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("has_bias", r"bias is given.*several times slower.*bias read from memory"),
        ("has_mask", r"mask is given.*several times slower.*is_causal="),
        ("has_mods", r"score_mod or mask_mod is given.*several times slower.*their arguments"),
        ("has_dropout", r"dropout_rate is given.*several times slower.*outputs of the layer"),
    ],
)
def test_what_costs_the_kernel_warns_once(machine, field, words):
    problem = replace(PLAIN, **{field: True})
    machine("9.0")
    with pytest.warns(UserWarning, match=words):
        selection.select(problem, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not selection.select(problem, None).is_kernel


@pytest.mark.parametrize("capabilities", [(), ("8.0",)])
def test_a_mask_that_costs_nothing_does_not_warn(machine, capabilities):
    machine(*capabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not selection.select(MASKED, None).is_kernel


def test_asking_for_xla_does_not_warn(machine):
    machine("9.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selection.select(MASKED, "xla")
