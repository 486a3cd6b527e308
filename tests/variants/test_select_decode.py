"""Which decoding kernel serves a call, and into how many parts it cuts the keys."""

import dataclasses

import pytest

from jax_fa4.variants import Arch
from jax_fa4.variants.select_decode import (
    KEYS_OF_PART,
    MAX_PARTS,
    DecodeProblem,
    decode_variants,
    num_splits,
    refusal,
)

GOOD = DecodeProblem(
    dtype="bfloat16",
    head_dim=128,
    head_dim_v=128,
    softmax_scale=0.1,
    batch=8,
    heads_kv=8,
    rows=4,
    page_size=16,
)


def names(**changes):
    return [v.name for v in decode_variants(dataclasses.replace(GOOD, **changes))]


def test_the_narrowest_kernel_of_each_architecture():
    assert names() == ["decode_sm90_bf16_d128", "decode_sm100_bf16_d128"]
    assert names(head_dim=64, head_dim_v=40, dtype="float16") == [
        "decode_sm90_fp16_d64",
        "decode_sm100_fp16_d64",
    ]
    assert names(head_dim=64, head_dim_v=72) == names()


def test_a_build_must_have_what_merges_parts():
    main = "decode_sm90_bf16_d128"
    assert decode_variants(GOOD, {main}) == ()
    assert [v.name for v in decode_variants(GOOD, {main, "decode_combine_sm90_bf16"})] == [main]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float32"}, "are float32.*cast them or use implementation='xla'"),
        ({"head_dim": 192}, "head dim of q and k_cache is 192, above 128"),
        ({"head_dim_v": 256}, "head dim of v_cache is 256, above 128"),
        ({"head_dim": 60}, "is 60, and the kernels read multiples of 8"),
        ({"page_size": 24}, "page_size is 24.*multiples of 16"),
        ({"softmax_scale": 0.0}, "softmax_scale is 0"),
        ({"batch": 70000}, "70000 sequences.*split the batch"),
    ],
)
def test_refusals(changes, message):
    problem = dataclasses.replace(GOOD, **changes)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refusal(problem))
    assert decode_variants(problem) == ()


def parts(sequences, heads_kv, capacity, rows=4, archs=(Arch.SM90,)):
    return num_splits(
        sequences=sequences, heads_kv=heads_kv, rows=rows, capacity=capacity, archs=archs
    )


def test_enough_ctas_for_the_multiprocessors_and_no_more():
    assert parts(8, 8, 32768) == 4  # 256 CTAs in 264 places
    assert parts(1, 8, 131072) == 29
    assert parts(64, 8, 32768) == 1
    assert 100 < parts(1, 1, 131072) <= MAX_PARTS


def test_any_gpu_that_a_program_may_meet_is_busy():
    """2 parts of 132 units fill 264 places, and 89 % of 296; 9 fill 4.01 waves of 296: 5."""
    assert parts(132, 1, 32768, archs=(Arch.SM90, Arch.SM100)) == 2
    assert parts(148, 1, 32768, archs=(Arch.SM100,)) == 2
    assert parts(148, 1, 32768, archs=(Arch.SM90, Arch.SM100)) > 2


def test_no_part_without_keys():
    assert parts(1, 1, KEYS_OF_PART) == 1
    assert parts(1, 1, KEYS_OF_PART + 1) == 2
    assert parts(1, 1, 1) == 1


def test_rows_beyond_four_tiles_are_further_ctas():
    assert parts(8, 8, 32768, rows=64) == parts(8, 8, 32768, rows=1)
    assert parts(8, 8, 32768, rows=65) < parts(8, 8, 32768, rows=64)
