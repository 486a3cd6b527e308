"""Bounded and softcap kernels, emulated, against the definition in float64."""

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
    "apart": (256, 900),  # Blackwell's two tiles of a CTA
    "reversed": (300, 300),
}
KERNELS = {  # head dims -> the backward's form, by architecture
    "sm90": {(64, 64): "", (128, 128): "", (192, 128): "_pair", (256, 256): "_pair"},
    "sm100": {(64, 64): "", (128, 128): "", (192, 128): "", (256, 256): ""},
}
DIMS = list(KERNELS["sm90"])


def checked(case, dtype, wide=None, arch="sm90"):
    """The kernels' results, once they are found right; `wide` are the head dims of the kernels."""
    d, d_v = wide or case.dims
    words = f"{arch}_{'fp16' if dtype == jnp.float16 else 'bf16'}_d{d}" + f"_v{d_v}" * (d != d_v)
    ending = "_bounded" + "_softcap" * bool(case.softcap)
    operands, visible = make(case, dtype)
    options = {"softmax_scale": case.scale, "softcap": case.softcap}
    out, lse = one_kernel.forward_bounded(f"fwd_{words}{ending}", *operands[:3], visible, **options)
    name = f"bwd_{words}{KERNELS[arch][d, d_v]}{ending}"
    gradients, _ = one_kernel.backward_bounded(name, operands, visible, **options)
    found = {"out": out, "lse": lse, **gradients._asdict()}
    found = {name: np.asarray(x) for name, x in found.items()}
    exact, plain = (definition(case, operands, visible, exact=e) for e in (True, False))
    tolerances.check(found, exact, plain)
    return found


WIDE_KINDS = (
    "random",
    "causal-documents",
    "uneven",
    "apart",
    "reversed",
)  # of wide heads, which take longer


@pytest.mark.parametrize("arch", KERNELS)
@pytest.mark.parametrize(
    ("kind", "dims"),
    [(kind, dims) for dims in DIMS for kind in (KINDS if dims[0] <= 128 else WIDE_KINDS)],
    ids=str,
)
def test_results_are_the_definition(kind, dims, arch):
    number = KINDS.index(kind) + len(KINDS) * DIMS.index(dims)
    case = Case(kind, LENGTHS[kind], dims, seed=number)
    checked(case, jnp.float16 if number % 3 == 1 else jnp.bfloat16, arch=arch)


@pytest.mark.parametrize("softcap", [1.0, 5.0, 30.0, 50.0])
@pytest.mark.parametrize("dims", [dims for dims in DIMS if dims[0] == dims[1]], ids=str)
@pytest.mark.parametrize("arch", KERNELS)
def test_a_soft_cap_is_the_definition(softcap, dims, arch):
    number = int(softcap)
    kind = KINDS[(number + dims[0]) % len(KINDS)]
    case = Case(kind, LENGTHS[kind], dims, softcap=softcap, peak=10.0, seed=number)
    checked(case, jnp.float16 if softcap == 5.0 else jnp.bfloat16, arch=arch)


@pytest.mark.parametrize("kind", ["causal-documents", "random"])
@pytest.mark.parametrize("arch", KERNELS)
def test_head_dims_and_groups_of_heads_between(kind, arch):
    case = Case(kind, (150, 230), (112, 72), heads=(6, 2), batch=1)
    checked(case, jnp.bfloat16, wide=(128, 128), arch=arch)


@pytest.mark.parametrize("arch", KERNELS)
def test_a_row_and_a_key(arch):
    checked(Case("full", (1, 1), (64, 64)), jnp.bfloat16, arch=arch)


@pytest.mark.parametrize("arch", KERNELS)
def test_nobody_sees_anything(arch):
    """No result depends on what the arrays hold."""
    case = Case("full", (100, 150), (64, 64))
    operands, visible = make(case, jnp.bfloat16)
    visible = visible._replace(last=np.full_like(visible.last, -1))
    operands = operands._replace(lse=jnp.full_like(operands.lse, -jnp.inf))
    out, lse = one_kernel.forward_bounded(
        f"fwd_{arch}_bf16_d64_bounded", *operands[:3], visible, softmax_scale=1.0
    )
    assert (np.asarray(out) == 0).all()
    assert np.isneginf(lse).all()
    gradients, _ = one_kernel.backward_bounded(
        f"bwd_{arch}_bf16_d64_bounded", operands, visible, softmax_scale=1.0
    )
    assert all((np.asarray(x) == 0).all() for x in gradients)


@pytest.mark.parametrize("dims", [(64, 64), (256, 256)], ids=str)
@pytest.mark.parametrize("level", ["ptx", "hardware"])
@pytest.mark.parametrize("arch", KERNELS)
def test_any_order_of_events(arch, level, dims):
    """All but dq, a sum in a varying order, keep their bits."""
    case = Case("causal-documents", (200, 200), dims, batch=1, softcap=20.0)
    first = None
    for seed, completion in enumerate(("earliest", "latest", "random")):
        with jax_fa4.emulator.options(seed=seed, completion=completion, level=level):
            found = checked(case, jnp.bfloat16, arch=arch)
        first = first or found
        for name in ("out", "lse", "dk", "dv"):
            np.testing.assert_array_equal(found[name], first[name])
