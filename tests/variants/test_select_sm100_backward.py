"""Forms of the Blackwell backward: each is somebody's fastest; the model counts what they do."""

import dataclasses

import pytest

from jax_fa4.variants import CATALOG, Arch, BackwardVariant, DType, Form
from jax_fa4.variants.problem import Call
from jax_fa4.variants.select import backward_for_call
from jax_fa4.variants.select_sm100_backward import Cost, cycles, fastest

OPEN = 2**30
CALL = Call(
    batch=1,
    heads=16,
    heads_kv=16,
    seqlen_q=4096,
    seqlen_k=4096,
    band_lower=-OPEN,
    band_upper=OPEN,
)
SIMPLE = Cost(keys=128, multiprocessors=1, start=10, per_visit=100)
FORMS = [
    BackwardVariant(arch=Arch.SM100, dtype=DType.BF16, head_dim=128, form=form)
    for form in (Form.USUAL, Form.PAIR)
]


def test_one_unit():
    call = dataclasses.replace(CALL, heads=3, heads_kv=1, seqlen_k=128)
    assert cycles(SIMPLE, call) == 10 + 3 * 32 * 100


def test_rounds_are_whole_where_units_are_alike():
    call = dataclasses.replace(CALL, heads=149, heads_kv=149, seqlen_q=1, seqlen_k=1)
    assert cycles(SIMPLE, call) == 2 * 110
    assert cycles(dataclasses.replace(SIMPLE, multiprocessors=2), call) == 3 * 110


def test_a_causal_call_is_about_half():
    full = dataclasses.replace(CALL, heads=148, heads_kv=148)
    causal = dataclasses.replace(full, band_upper=0)
    assert 0.5 < cycles(SIMPLE, causal) / cycles(SIMPLE, full) < 0.55


@pytest.mark.parametrize(("upper", "lower"), [(0, -OPEN), (0, -500), (-600, -OPEN), (OPEN, 300)])
def test_visits_are_the_kernels(upper, lower):
    """One head, one place: the sum over blocks of keys of the blocks of queries that see them."""
    call = dataclasses.replace(
        CALL, heads=1, heads_kv=1, seqlen_q=900, seqlen_k=700, band_lower=lower, band_upper=upper
    )
    visits = 0
    for key in range(0, 700, 128):
        blocks = {
            i // 128
            for i in range(900)
            if any(lower <= j - i <= upper for j in range(key, min(key + 128, 700)))
        }
        visits += max(len(blocks), 1)
    one = Cost(keys=128, multiprocessors=148, start=0, per_visit=1)
    assert cycles(one, call) == visits


@pytest.mark.parametrize("length", [1024, 4096, 16384])
@pytest.mark.parametrize("upper", [0, OPEN])
def test_long_calls_take_the_pair(length, upper):
    call = dataclasses.replace(CALL, seqlen_q=length, seqlen_k=length, band_upper=upper)
    assert fastest(FORMS, call).form is Form.PAIR


@pytest.mark.parametrize(("heads", "keys"), [(128, 128), (120, 100), (148, 1)])
def test_a_half_empty_pair_is_not_taken(heads, keys):
    call = dataclasses.replace(CALL, heads=heads, heads_kv=heads, seqlen_k=keys)
    assert fastest(FORMS, call).form is Form.USUAL


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_calls_take(deterministic):
    names = [
        v.name
        for v in CATALOG
        if isinstance(v, BackwardVariant)
        and (v.arch, v.dtype, v.head_dim) == (Arch.SM100, DType.BF16, 128)
        and v.deterministic == deterministic
    ]
    (name,) = backward_for_call(names, CALL)
    assert name == "bwd_sm100_bf16_d128_pair" + "_deterministic" * deterministic
