"""Whatever the call, the chosen kernels are built, serve it, and keep what was promised."""

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from jax_fa4.variants import CATALOG, Arch, BackwardVariant, parse, select
from jax_fa4.variants.catalog import is_deterministic
from jax_fa4.variants.problem import Call, Problem
from jax_fa4.variants.workspace import Workspace

UNBOUNDED = 2**30
LENGTHS = st.one_of(st.integers(1, 2100), st.integers(1, UNBOUNDED - 1))
NAMES = [variant.name for variant in CATALOG]
MAIN = [variant.name for variant in CATALOG if isinstance(variant, BackwardVariant)]


@st.composite
def problems(draw):
    head_dim, head_dim_v = draw(st.tuples(st.integers(1, 256), st.integers(1, 256)))
    return Problem(
        dtype=draw(st.sampled_from(["bfloat16", "float16"])),
        head_dim=head_dim,
        head_dim_v=draw(st.sampled_from([head_dim, head_dim_v, 128])),
        softmax_scale=0.1,
        deterministic=draw(st.booleans()),
        has_bounds=draw(st.booleans()),
        has_softcap=draw(st.booleans()),
    )


@st.composite
def calls(draw):
    heads_kv = draw(st.integers(1, 64))
    lower, upper = sorted(
        draw(st.one_of(st.sampled_from([-UNBOUNDED, 0, UNBOUNDED]), st.integers(-3000, 3000)))
        for _ in range(2)
    )
    return Call(
        batch=draw(st.integers(1, 4096)),
        heads=heads_kv * draw(st.integers(1, 128)),
        heads_kv=heads_kv,
        seqlen_q=draw(LENGTHS),
        seqlen_k=draw(LENGTHS),
        band_lower=lower,
        band_upper=upper,
    )


@settings(max_examples=100, deadline=None, database=None)
@given(problems(), calls(), st.sets(st.sampled_from(MAIN), max_size=12))
def test_a_gradient_runs_on_kernels_that_serve_it(problem, call, missing):
    """Of any build, also one that lacks some kernels."""
    built = set(NAMES) - missing
    serving = [variant.name for variant in select.backward_variants(problem, built)]
    chosen = [parse(name) for name in select.backward_for_call(serving, call)]
    assert {v.arch for v in chosen} == {parse(name).arch for name in serving}
    assert len({v.arch for v in chosen}) == len(chosen)
    if not missing and not problem.is_bounded:
        assert {v.arch for v in chosen} == set(Arch)
    for variant in chosen:
        assert variant.name in built
        assert set(select.helpers(variant)) <= built
        assert variant.holds(problem.head_dim, problem.head_dim_v)
        assert variant.dtype is problem.kernel_dtype
        assert variant.bounded == problem.is_bounded
        assert variant.softcap == problem.has_softcap
        assert is_deterministic(variant) or not problem.deterministic
    if chosen:
        names = [variant.name for variant in chosen]
        scratch = Workspace.of(names, batch=call.batch, heads_q=call.heads, seqlen_q=call.seqlen_q)
        assert scratch.dq_accum[3] >= max(variant.head_dim for variant in chosen)


@settings(max_examples=100, deadline=None, database=None)
@given(problems(), calls(), st.permutations(range(4)))
def test_a_choice_does_not_depend_on_the_order_of_the_catalog(problem, call, order):
    serving = [variant.name for variant in select.backward_variants(problem)]
    shuffled = [serving[i] for i in order if i < len(serving)]
    shuffled += [name for name in serving if name not in shuffled]
    chosen = select.backward_for_call(serving, call)
    assert select.backward_for_call(shuffled, call) == chosen
