"""Names of variants: what they say, that they parse to the variant, and that no others do."""

import pytest

from jax_fa4.variants import (
    CATALOG,
    Arch,
    BackwardPostprocessVariant,
    BackwardVariant,
    DecodeCombineVariant,
    DecodeVariant,
    DType,
    Form,
    ForwardVariant,
    parse,
)


@pytest.mark.parametrize("variant", CATALOG, ids=lambda v: v.name)
def test_names_round_trip(variant):
    assert parse(variant.name) == variant


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        (Form.USUAL, ""),
        (Form.PAIR, "_pair"),
        (Form.SPLITKEYS, "_splitkeys"),
        (Form.DYNAMIC, "_dynamic"),
        (Form.SERIAL, "_serial"),
    ],
)
def test_names_of_forms(form, suffix):
    variant = ForwardVariant(arch=Arch.SM100, dtype=DType.BF16, head_dim=128, form=form)
    assert variant.name == f"fwd_sm100_bf16_d128{suffix}"
    assert parse(variant.name) == variant


def test_names_of_the_backward():
    variant = BackwardVariant(arch=Arch.SM90, dtype=DType.BF16, head_dim=128, deterministic=True)
    assert variant.name == "bwd_sm90_bf16_d128_deterministic"
    assert parse(variant.name) == variant
    last = BackwardPostprocessVariant(arch=Arch.SM100, dtype=DType.FP16)
    assert last.name == "bwd_postprocess_sm100_fp16"
    assert parse(last.name) == last


@pytest.mark.parametrize(
    ("name", "head_dims"),
    [
        ("fwd_sm100_bf16_d192_v128", (192, 128)),
        ("fwd_sm90_fp16_d64", (64, 64)),
        ("bwd_sm100_bf16_d192_v128_deterministic", (192, 128)),
        ("bwd_sm90_fp16_d64", (64, 64)),
    ],
)
def test_head_dims_of_names(name, head_dims):
    variant = parse(name)
    assert (variant.head_dim, variant.head_dim_v) == head_dims
    assert variant.name == name


@pytest.mark.parametrize(
    "name",
    [
        "fwd_sm90_bf16_d128_bounded",
        "fwd_sm90_fp16_d192_v128_bounded_softcap",
        "fwd_sm100_bf16_d128_pair_bounded",
        "bwd_sm100_fp16_d192_v128_bounded",
        "bwd_sm90_bf16_d256_pair_bounded_softcap",
        "bwd_sm90_bf16_d64_deterministic_bounded",
    ],
)
def test_names_of_bounded_kernels(name):
    variant = parse(name)
    assert variant.bounded
    assert variant.softcap == name.endswith("_softcap")
    assert variant.name == name


@pytest.mark.parametrize(
    ("name", "kind", "head_dims"),
    [
        ("decode_sm90_bf16_d128", DecodeVariant, (128, 128)),
        ("decode_sm100_fp16_d192_v128", DecodeVariant, (192, 128)),
        ("decode_combine_sm100_bf16", DecodeCombineVariant, None),
    ],
)
def test_names_of_decoding_kernels(name, kind, head_dims):
    variant = parse(name)
    assert type(variant) is kind
    assert variant.name == name
    if head_dims:
        assert (variant.head_dim, variant.head_dim_v) == head_dims
        assert variant.holds(*head_dims)
        assert not variant.holds(head_dims[0] + 1, 8)


def test_a_softcap_is_a_bounded_kernels():
    with pytest.raises(ValueError, match="softcap is a bounded one"):
        ForwardVariant(arch=Arch.SM90, dtype=DType.BF16, head_dim=64, softcap=True)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fwd_sm90_bf16",
        "fwd_sm90_bf16_d064",
        "fwd_sm80_bf16_d64",
        "fwd_sm100_bf16_d128_",
        "fwd_sm100_bf16_d128_usual",
        "fwd_sm100_bf16_d128_pair_pair",
        "fwd_sm90_bf16_d64_v64",
        "fwd_sm90_bf16_d64_pair_v32",
        "fwd_sm90_bf16_d64_v0",
        "fwd_sm90_bf16_d192_v128_v128",
        "fwd_sm90_bf16_d64_softcap",
        "fwd_sm90_bf16_d64_softcap_bounded",
        "fwd_sm90_bf16_d64_bounded_pair",
        "bwd_preprocess_sm90_bf16_bounded",
        "bwd_sm90_bf16",
        "bwd_sm90_bf16_d64_splitkeys",
        "bwd_sm90_bf16_d64_deterministic_pair",
        "bwd_sm90_bf16_deterministic",
        "bwd_preprocess_sm90",
        "bwd_preprocess_sm90_bf16_d64",
        "bwd_midprocess_sm90_bf16",
        "decode_sm90_bf16",
        "decode_sm90_bf16_d64_v64",
        "decode_combine_sm90_bf16_d64",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="not the name of a kernel variant"):
        parse(name)


def test_at_most_one_name_an_architecture():
    assert len({v.name for v in CATALOG}) == len(CATALOG)
