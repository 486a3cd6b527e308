"""Every legal problem gets the narrowest kernel that holds it; every other a reason."""

import dataclasses

import pytest

from jax_fa4.variants import (
    BACKWARD_HEAD_DIMS,
    CATALOG,
    FORWARD_HEAD_DIMS,
    Arch,
    BackwardVariant,
    DType,
    Form,
    ForwardVariant,
    parse,
    select,
    select_backward,
)
from jax_fa4.variants.catalog import is_deterministic
from jax_fa4.variants.problem import Call, Problem
from jax_fa4.variants.select import (
    backward_for_call,
    backward_variants,
    forward_variants,
    helpers,
    refusal,
)

PLAIN = Problem(dtype="bfloat16", head_dim=64, softmax_scale=0.125)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("head_dim", range(1, 257, 15))
@pytest.mark.parametrize("head_dim_v", [0, 1, 64, 65, 128, 192, 256])
def test_narrowest(dtype, head_dim, head_dim_v):
    problem = dataclasses.replace(PLAIN, dtype=dtype, head_dim=head_dim, head_dim_v=head_dim_v)
    assert refusal(problem) is None
    for arch in Arch:
        value_width = head_dim_v or head_dim
        wide_enough = [
            (d, d_v) for d, d_v in FORWARD_HEAD_DIMS[arch] if d >= head_dim and d_v >= value_width
        ]
        found = [variant for variant in forward_variants(problem) if variant.arch is arch]
        assert {(v.head_dim, v.head_dim_v) for v in found} == {min(wide_enough, key=sum)}
        assert {v.dtype for v in found} == {problem.kernel_dtype}
        assert found[0].form is Form.USUAL


@pytest.mark.parametrize(
    ("head_dims", "tile"), [((8, 8), 64), ((64, 64), 64), ((64, 65), 128), ((128, 16), 128)]
)
def test_narrowest_of_8_bits(head_dims, tile):
    head_dim, head_dim_v = head_dims
    problem = dataclasses.replace(
        PLAIN, dtype="float8_e4m3fn", head_dim=head_dim, head_dim_v=head_dim_v
    )
    assert refusal(problem) is None
    assert [v.name for v in forward_variants(problem)] == [f"fwd_sm100_e4m3_d{tile}"]


def test_no_forward_kernel_is_unreachable():
    reached = {
        variant
        for dtype in ("bfloat16", "float16", "float8_e4m3fn")
        for head_dim in range(8, 257, 8)
        for head_dim_v in range(8, 257, 8)
        for features in ({}, {"has_bounds": True}, {"has_softcap": True})
        for variant in forward_variants(
            dataclasses.replace(
                PLAIN, dtype=dtype, head_dim=head_dim, head_dim_v=head_dim_v, **features
            )
        )
    }
    assert reached == {v for v in CATALOG if isinstance(v, ForwardVariant)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float32"}, "dtype=jnp.bfloat16"),
        ({"head_dim": 257}, "head dim 257 is above 256"),
        ({"dtype": "float8_e4m3fn", "head_dim": 129}, "above 128, the widest kernel for 8 bits"),
        ({"dtype": "float8_e5m2"}, "float8_e5m2"),
        ({"head_dim_v": 257}, "value head dim 257 is above 256"),
        ({"has_bias": True}, "bias is given"),
        ({"has_mask": True}, "is_causal="),
        ({"softmax_scale": 0.0}, "scale is 0"),
    ],
)
def test_refusals_name_the_value_and_the_way_out(change, words):
    problem = dataclasses.replace(PLAIN, **change)
    assert words in refusal(problem)
    assert "implementation='xla'" in refusal(problem)
    assert forward_variants(problem) == ()


def test_a_smaller_build():
    wider = {"fwd_sm90_bf16_d128"}
    assert [v.name for v in forward_variants(PLAIN, wider)] == ["fwd_sm90_bf16_d128"]
    assert forward_variants(PLAIN, set()) == ()
    assert backward_variants(PLAIN, set()) == ()


@pytest.mark.parametrize("head_dim", [1, 64, 65, 128, 129, 256])
def test_the_narrowest_backward(head_dim):
    problem = dataclasses.replace(PLAIN, head_dim=head_dim, head_dim_v=head_dim)
    found = {v.arch: (v.head_dim, v.head_dim_v) for v in backward_variants(problem)}
    wide_enough = {
        arch: [pair for pair in pairs if min(pair) >= head_dim]
        for arch, pairs in BACKWARD_HEAD_DIMS.items()
    }
    assert found == {arch: min(pairs, key=sum) for arch, pairs in wide_enough.items() if pairs}


def test_a_backward_needs_its_helpers():
    everything = {variant.name for variant in CATALOG}
    for variant in CATALOG:
        if not isinstance(variant, BackwardVariant):
            continue
        problem = dataclasses.replace(
            PLAIN,
            dtype={"bf16": "bfloat16", "fp16": "float16"}[variant.dtype.value],
            head_dim=variant.head_dim,
            head_dim_v=variant.head_dim_v,
            deterministic=variant.deterministic,
            has_bounds=variant.bounded,
            has_softcap=variant.softcap,
        )
        assert variant in backward_variants(problem, everything)
        assert set(helpers(variant)) <= everything
        for name in helpers(variant):
            assert variant not in backward_variants(problem, everything - {name})


def test_determinism_is_a_kernel_of_its_own():
    for deterministic in (False, True):
        problem = dataclasses.replace(PLAIN, deterministic=deterministic)
        found = backward_variants(problem)
        assert {v.deterministic for v in found if v.form is not Form.SERIAL} <= {deterministic}
        assert not deterministic or all(map(is_deterministic, found))


@pytest.mark.parametrize("dims", [(129, 1), (192, 128), (192, 129), (256, 256)])
def test_determinism_is_a_property_of_blackwells_wide_kernels(dims):
    found = []
    for deterministic in (False, True):
        problem = dataclasses.replace(
            PLAIN, head_dim=dims[0], head_dim_v=dims[1], deterministic=deterministic
        )
        found.append([v for v in backward_variants(problem) if v.arch is Arch.SM100])
    assert found[0] == found[1]
    assert {v.head_dim for v in found[0]} == {192 if dims[1] <= 128 else 256}


@pytest.mark.parametrize("deterministic", [False, True])
def test_forms_of_the_backward(deterministic, monkeypatch):
    """A pair is a form: both serve, and one of them runs a call."""
    usual = BackwardVariant(
        arch=Arch.SM100, dtype=DType.BF16, head_dim=64, deterministic=deterministic
    )
    pair = dataclasses.replace(usual, form=Form.PAIR)
    assert pair.name == "bwd_sm100_bf16_d64_pair" + "_deterministic" * deterministic
    assert parse(pair.name) == pair
    kernels = [v for v in CATALOG if not isinstance(v, BackwardVariant)]
    monkeypatch.setattr(select, "CATALOG", (*kernels, usual, pair))
    problem = dataclasses.replace(PLAIN, deterministic=deterministic)
    found = backward_variants(problem)
    assert found == (usual, pair)
    call = Call(
        batch=1, heads=1, heads_kv=1, seqlen_q=1, seqlen_k=1, band_lower=-(2**30), band_upper=2**30
    )
    names = [v.name for v in found]
    for preferred in (Form.USUAL, Form.PAIR):
        monkeypatch.setitem(select_backward.PREFERRED, (Arch.SM100, 64, 64), preferred)
        (name,) = backward_for_call(names, call)
        assert parse(name).form is preferred
    assert backward_for_call([usual.name], call) == (usual.name,)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"has_bounds": True}, "64 (value) with segment ids or sequence lengths;"),
        ({"has_softcap": True}, "64 (value) with logits_soft_cap;"),
        ({"has_bounds": True, "has_softcap": True}, "sequence lengths and logits_soft_cap;"),
    ],
)
def test_bounded_problems_have_kernels_of_their_own(features, words, monkeypatch):
    plain = ForwardVariant(arch=Arch.SM90, dtype=DType.BF16, head_dim=64)
    bounded = dataclasses.replace(plain, bounded=True)
    capped = dataclasses.replace(bounded, softcap=True)
    backward = BackwardVariant(arch=Arch.SM90, dtype=DType.BF16, head_dim=64, bounded=True)
    helpers_of_it = [parse(name) for name in helpers(backward)]
    monkeypatch.setattr(select, "CATALOG", (plain,))
    problem = dataclasses.replace(PLAIN, **features)
    assert words in refusal(problem)
    assert "use implementation='xla'" in refusal(problem)
    assert forward_variants(problem) == ()
    monkeypatch.setattr(select, "CATALOG", (plain, bounded, capped, backward, *helpers_of_it))
    assert refusal(problem) is None
    assert forward_variants(problem) == (capped if problem.has_softcap else bounded,)
    assert forward_variants(PLAIN) == (plain,)
    assert backward_variants(problem) == (() if problem.has_softcap else (backward,))
    assert backward_variants(PLAIN) == ()
    assert backward_variants(dataclasses.replace(problem, deterministic=True)) == ()
