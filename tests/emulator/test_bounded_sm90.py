"""Hopper's bounded and softcap kernels, emulated, against the definition in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.emulator import one_kernel
from jax_fa4.testing import tolerances
from jax_fa4.testing.bounded import KINDS, Case, definition, make

# Lengths that end within a group of 64, and blocks of keys that a tile does not see at all.
LENGTHS = {
    "full": (130, 200),
    "causal": (200, 330),
    "window": (257, 257),
    "random": (193, 300),
    "documents": (260, 260),
    "causal-documents": (300, 300),
    "lengths": (130, 270),
    "ids": (65, 140),
    "uneven": (256, 1300),  # more blocks than the rings of K and V have stages
}
KERNELS = {  # head dims -> the backward's form
    (64, 64): "",
    (128, 128): "",
    (192, 128): "_pair",
    (256, 256): "_pair",
}


def checked(case, dtype, wide=None):
    """The kernels' results, once they are found right; `wide` are the head dims of the kernels."""
    d, d_v = wide or case.dims
    words = f"sm90_{'fp16' if dtype == jnp.float16 else 'bf16'}_d{d}" + f"_v{d_v}" * (d != d_v)
    ending = "_bounded" + "_softcap" * bool(case.softcap)
    operands, visible = make(case, dtype)
    options = {"softmax_scale": case.scale, "softcap": case.softcap}
    out, lse = one_kernel.forward_bounded(f"fwd_{words}{ending}", *operands[:3], visible, **options)
    name = f"bwd_{words}{KERNELS[d, d_v]}{ending}"
    gradients, _ = one_kernel.backward_bounded(name, operands, visible, **options)
    found = {"out": out, "lse": lse, **gradients._asdict()}
    found = {name: np.asarray(x) for name, x in found.items()}
    exact, plain = (definition(case, operands, visible, exact=e) for e in (True, False))
    tolerances.check(found, exact, plain)
    return found


WIDE_KINDS = ("random", "causal-documents", "uneven")  # of wide heads, which take longer


@pytest.mark.parametrize(
    ("kind", "dims"),
    [(kind, dims) for dims in KERNELS for kind in (KINDS if dims[0] <= 128 else WIDE_KINDS)],
    ids=str,
)
def test_results_are_the_definition(kind, dims):
    number = KINDS.index(kind) + len(KINDS) * list(KERNELS).index(dims)
    case = Case(kind, LENGTHS[kind], dims, seed=number)
    checked(case, jnp.float16 if number % 3 == 1 else jnp.bfloat16)


@pytest.mark.parametrize("softcap", [1.0, 5.0, 30.0, 50.0])
@pytest.mark.parametrize("dims", [dims for dims in KERNELS if dims[0] == dims[1]], ids=str)
def test_a_soft_cap_is_the_definition(softcap, dims):
    number = int(softcap)
    kind = KINDS[(number + dims[0]) % len(KINDS)]
    case = Case(kind, LENGTHS[kind], dims, softcap=softcap, peak=10.0, seed=number)
    checked(case, jnp.float16 if softcap == 5.0 else jnp.bfloat16)


@pytest.mark.parametrize("kind", ["causal-documents", "random"])
def test_head_dims_and_groups_of_heads_between(kind):
    case = Case(kind, (150, 230), (112, 72), heads=(6, 2), batch=1)
    checked(case, jnp.bfloat16, wide=(128, 128))


def test_a_row_and_a_key():
    checked(Case("full", (1, 1), (64, 64)), jnp.bfloat16)


def test_nobody_sees_anything():
    """No result depends on what the arrays hold."""
    case = Case("full", (100, 150), (64, 64))
    operands, visible = make(case, jnp.bfloat16)
    visible = visible._replace(last=np.full_like(visible.last, -1))
    operands = operands._replace(lse=jnp.full_like(operands.lse, -jnp.inf))
    out, lse = one_kernel.forward_bounded(
        "fwd_sm90_bf16_d64_bounded", *operands[:3], visible, softmax_scale=1.0
    )
    assert (np.asarray(out) == 0).all()
    assert np.isneginf(lse).all()
    gradients, _ = one_kernel.backward_bounded(
        "bwd_sm90_bf16_d64_bounded", operands, visible, softmax_scale=1.0
    )
    assert all((np.asarray(x) == 0).all() for x in gradients)


@pytest.mark.parametrize("dims", [(64, 64), (256, 256)], ids=str)
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_any_order_of_events(level, dims):
    """All but dq, a sum in a varying order, keep their bits."""
    case = Case("causal-documents", (200, 200), dims, batch=1, softcap=20.0)
    first = None
    for seed, completion in enumerate(("earliest", "latest", "random")):
        with jax_fa4.emulator.options(seed=seed, completion=completion, level=level):
            found = checked(case, jnp.bfloat16)
        first = first or found
        for name in ("out", "lse", "dk", "dv"):
            np.testing.assert_array_equal(found[name], first[name])
