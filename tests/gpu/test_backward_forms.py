"""Every backward kernel of the GPU's kind, also where no call of its lengths would choose it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

import jax_fa4
from jax_fa4.ops import selection
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import CATALOG, BackwardVariant, parse

pytestmark = pytest.mark.gpu

MAJORS = {str(d.compute_capability).partition(".")[0] for d in selection.cuda_devices()}
KERNELS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant)
    and not (v.bounded or v.softcap)  # one form each: tests/gpu/test_bounded.py
    and (not MAJORS or str(v.arch.compute_capability_major) in MAJORS)
]


@pytest.fixture(scope="module", params=KERNELS, ids=lambda variant: variant.name)
def kernel(request):
    """Calls of its head dims take it."""
    variant = request.param
    choose = selection.backward_for_call

    def backward_for_call(names, call):
        of_form = tuple(name for name in names if parse(name).form is variant.form)
        return of_form or choose(names, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "backward_for_call", backward_for_call)
        jax.clear_caches()  # of calls that other tests traced, with their choice
        yield variant
    jax.clear_caches()


COPIES = 40  # of the batch, so that there are more CTAs than the GPU holds


@pytest.mark.parametrize(
    ("query_length", "key_length", "options"),
    [(512, 512, {"causal": True}), (450, 333, {"heads": 4, "window": (300, 30)})],
    ids=["many", "ragged"],
)
def test_gradients_are_the_definition(kernel, query_length, key_length, options):
    """Of every copy, and dk and dv (in a fixed order dq, too) have the same bits in all."""
    case = inputs.Case(
        name="forms",
        query_length=query_length,
        key_length=key_length,
        batch=1,
        head_dim=kernel.head_dim,
        head_dim_v=kernel.head_dim_v,
        **options,
    )
    x = inputs.make(case, {"bf16": jnp.bfloat16, "fp16": jnp.float16}[kernel.dtype.value])
    copies = jax.tree.map(lambda a: jnp.tile(a, (COPIES, *[1] * (a.ndim - 1))), x)
    how = {"causal": case.causal, "window_size": case.window}
    how["deterministic"] = kernel.deterministic
    assert jax_fa4.explain(*copies[:3], **how).split()[-1] == kernel.name
    call = functools.partial(jax_fa4.flash_attention, return_lse=True, implementation="fa4", **how)
    found = expected.results(call, copies, gradients=True)
    bounds = expected.both(x, case, gradients=True)
    for copy in (0, COPIES // 2, COPIES - 1):
        tolerances.check({n: a[copy : copy + 1] for n, a in found.items()}, *bounds)
    for name in set(found) - (set() if kernel.deterministic else {"dq"}):
        assert (found[name] == found[name][:1]).all(), name
