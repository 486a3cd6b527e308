"""Which form of Hopper's backward runs a call."""

import dataclasses
import itertools

import pytest

from jax_fa4.variants import Arch, BackwardVariant, DType, Form, select_sm90
from jax_fa4.variants.problem import Call

UNBOUNDED = 2**30
FULL = Call(
    batch=32,
    heads=16,
    heads_kv=16,
    seqlen_q=512,
    seqlen_k=512,
    band_lower=-UNBOUNDED,
    band_upper=UNBOUNDED,
)


def square(length, **changes):
    return dataclasses.replace(FULL, seqlen_q=length, seqlen_k=length, **changes)


def forms(head_dim):
    usual = BackwardVariant(arch=Arch.SM90, dtype=DType.BF16, head_dim=head_dim)
    return usual, *(dataclasses.replace(usual, form=form) for form in (Form.PAIR, Form.SERIAL))


@pytest.mark.parametrize(
    ("head_dim", "call", "form"),
    [
        (128, square(512), Form.SERIAL),
        (128, square(2048), Form.USUAL),
        (128, square(1024), Form.PAIR),
        (128, square(256), Form.SERIAL),
        (128, square(128), Form.SERIAL),
        (128, square(8192), Form.USUAL),
        (128, square(65536), Form.USUAL),
        (128, square(512, band_upper=0), Form.SERIAL),
        (128, square(1024, band_upper=0), Form.USUAL),
        (128, square(2048, band_upper=0), Form.USUAL),
        (128, square(8192, band_upper=0), Form.USUAL),
        (64, square(512), Form.SERIAL),
        (64, square(512, band_upper=0), Form.SERIAL),
        (64, square(1024, band_upper=0), Form.SERIAL),
        (64, square(2048), Form.USUAL),
        (64, square(8192), Form.USUAL),
        (64, square(2048, band_upper=0), Form.USUAL),
        (64, square(8192, band_upper=0), Form.USUAL),
        # A band as wide as the lengths cuts nothing.
        (128, square(1024, band_upper=1023, band_lower=-1023), Form.PAIR),
        (128, square(1024, band_upper=1022), Form.USUAL),
        # Fewer heads than multiprocessors, or a few more, leave some idle.
        (64, square(512, batch=3), Form.PAIR),
        (64, square(512, batch=9), Form.PAIR),
        (64, square(512, batch=8), Form.SERIAL),
        (128, square(512, batch=3), Form.PAIR),
        # One block of keys, or three, leave a CTA without work; of seven that is little.
        (128, dataclasses.replace(square(1024), seqlen_k=128), Form.USUAL),
        (128, dataclasses.replace(square(1024), seqlen_k=384), Form.USUAL),
        (128, dataclasses.replace(square(1024), seqlen_k=7 * 128), Form.PAIR),
        (128, square(1), Form.SERIAL),
        # The query heads of a key head are walked by one CTA.
        (128, square(512, heads=64), Form.USUAL),
        (64, square(512, heads=64), Form.USUAL),
        (64, square(256, heads=64, band_upper=0), Form.SERIAL),
    ],
)
def test_the_form_that_was_faster(head_dim, call, form):
    assert select_sm90.fastest(forms(head_dim), call).form is form


@pytest.mark.parametrize(
    ("call", "form"),
    [
        (FULL, Form.SERIAL),
        (square(512, band_upper=0), Form.SERIAL),
        (square(1024), Form.PAIR),
        (square(1024, band_upper=0), Form.PAIR),
        (square(2048), Form.PAIR),
        (square(2048, band_upper=0), Form.PAIR),
        (square(16384, band_upper=0), Form.PAIR),
        (square(8192, heads_kv=4, band_upper=0), Form.PAIR),
        # Few heads leave multiprocessors idle in the serial form.
        (square(512, batch=3), Form.PAIR),
        # An odd block of keys costs more than turns among single CTAs, unless it is one of many.
        (dataclasses.replace(square(2048), seqlen_k=128), Form.USUAL),
        (dataclasses.replace(square(2048), seqlen_k=3 * 128), Form.USUAL),
        (dataclasses.replace(square(2048), seqlen_k=7 * 128), Form.USUAL),
        (dataclasses.replace(square(2048), seqlen_k=15 * 128), Form.PAIR),
    ],
)
def test_turns_cost_the_pair_less(call, form):
    """So it runs deterministic calls where it does not run others."""
    usual, pair, serial = (
        dataclasses.replace(v, deterministic=v.form is not Form.SERIAL) for v in forms(128)
    )
    for order in itertools.permutations((usual, pair, serial)):
        assert select_sm90.fastest(order, call).form is form


def test_deterministic_calls_where_there_is_no_pair():
    usual, _, serial = forms(64)
    ordered = dataclasses.replace(usual, deterministic=True)
    for both in ([ordered, serial], [serial, ordered]):
        assert select_sm90.fastest(both, FULL) is serial
        assert select_sm90.fastest(both, square(2048)) is ordered
    assert select_sm90.fastest([ordered], FULL) is ordered


def test_the_only_form_there_is():
    for only in forms(128):
        for call in (FULL, square(2048)):
            assert select_sm90.fastest([only], call) is only
    for head_dim, head_dim_v in ((256, 256), (192, 128)):
        wide = BackwardVariant(
            arch=Arch.SM90,
            dtype=DType.BF16,
            head_dim=head_dim,
            head_dim_v=head_dim_v,
            form=Form.PAIR,
        )
        assert select_sm90.fastest([wide], FULL) is wide
