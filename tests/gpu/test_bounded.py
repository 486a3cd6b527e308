"""Bounded and softcap kernels on the GPU, against the definition in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.ops import kernel_calls, selection
from jax_fa4.ops.band import FULL
from jax_fa4.testing import tolerances
from jax_fa4.testing.bounded import KINDS, Case, definition, make
from jax_fa4.variants.problem import Problem

pytestmark = pytest.mark.gpu

DIMS = ((64, 64), (128, 128), (192, 128), (256, 256))
CAPS = ((64, 64), (128, 128), (256, 256))


def checked(case: Case, dtype: str) -> dict[str, np.ndarray]:
    """The results of the calls that this device's kernels serve, once they are found right."""
    problem = Problem(
        dtype=dtype,
        head_dim=case.dims[0],
        head_dim_v=case.dims[1],
        softmax_scale=case.scale,
        has_bounds=True,
        has_softcap=case.softcap > 0,
    )
    path = selection.select(problem, "fa4")
    assert path.backward, "both families have these kernels for all of DIMS and CAPS"
    operands, visible = make(case, jnp.dtype(dtype))
    options = {"softmax_scale": case.scale, "band": FULL, "softcap": case.softcap}
    forward = jax.jit(functools.partial(kernel_calls.forward, path, **options))
    backward = jax.jit(functools.partial(kernel_calls.backward, path, **options))
    out, lse = forward(*operands[:3], *visible)
    rest = (operands.out, operands.lse, operands.dout, operands.dlse)
    gradients = backward(*operands[:3], *rest, *visible)
    found = dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *gradients), strict=True))
    found = {name: np.asarray(x) for name, x in found.items()}
    exact, plain = (definition(case, operands, visible, exact=e) for e in (True, False))
    tolerances.check(found, exact, plain)
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_definition(kind: str, dims: tuple[int, int], dtype: str) -> None:
    for seed, lengths in enumerate(((130, 200), (513, 700), (1024, 1024))):
        checked(Case(kind, lengths, dims, heads=(4, 2), seed=seed), dtype)


@pytest.mark.parametrize("softcap", [1.0, 20.0, 50.0])
@pytest.mark.parametrize("dims", CAPS, ids=str)
def test_a_soft_cap_is_the_definition(dims: tuple[int, int], softcap: float) -> None:
    for seed, kind in enumerate(KINDS):
        case = Case(kind, (300, 450), dims, softcap=softcap, peak=10.0, seed=seed)
        checked(case, "bfloat16")


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_all_but_dq_keep_their_bits(dims: tuple[int, int]) -> None:
    case = Case("causal-documents", (700, 700), dims, heads=(8, 2))
    first = checked(case, "bfloat16")
    for _ in range(5):
        again = checked(case, "bfloat16")
        for name in ("out", "lse", "dk", "dv"):
            np.testing.assert_array_equal(again[name], first[name])
