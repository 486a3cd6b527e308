"""Forms of the Blackwell kernels: each is somebody's fastest, and the model counts what they do."""

import dataclasses
import itertools

import pytest

from jax_fa4.variants import CATALOG, Arch, DType, Form, ForwardVariant
from jax_fa4.variants.problem import Call
from jax_fa4.variants.select import for_call
from jax_fa4.variants.select_sm100 import COSTS, Cost, cheapest, cycles

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
SIMPLE = Cost(rows=256, multiprocessors=1, per_block=100, first_tile=10, next_tile=5)
FORMS = {
    (v.head_dim, v.head_dim_v): [
        u
        for u in CATALOG
        if isinstance(u, ForwardVariant)
        and (u.arch, u.dtype) == (v.arch, v.dtype)
        and (u.head_dim, u.head_dim_v) == (v.head_dim, v.head_dim_v)
        and not u.bounded
    ]
    for v in CATALOG
    if isinstance(v, ForwardVariant) and v.arch is Arch.SM100 and v.form is not Form.USUAL
}


def test_one_tile():
    """One unit, 32 blocks of 128 keys."""
    call = dataclasses.replace(CALL, heads=1, heads_kv=1, seqlen_q=256)
    assert cycles(SIMPLE, call) == 10 + 32 * 100


def test_rounds_are_whole_where_tiles_are_alike():
    call = dataclasses.replace(CALL, heads=149, heads_kv=149, seqlen_q=1, seqlen_k=1)
    assert cycles(SIMPLE, call) == 110 + 105
    assert cycles(dataclasses.replace(SIMPLE, multiprocessors=2), call) == 110 + 2 * 105


def test_a_causal_call_is_about_half():
    causal = dataclasses.replace(CALL, band_upper=0)
    assert 0.45 < cycles(SIMPLE, causal) / cycles(SIMPLE, CALL) < 0.6


def test_claimed_tiles_cost_what_further_ones_do():
    """As many units as multiprocessors, two tiles each: one of 1 block, one of 2."""
    call = dataclasses.replace(
        CALL, heads=148, heads_kv=148, seqlen_q=512, seqlen_k=256, band_upper=-256
    )
    claims = dataclasses.replace(SIMPLE, claims_tiles=True)
    assert cycles(SIMPLE, call) == 2 * 10 + 3 * 100
    assert cycles(claims, call) == 10 + 5 + 3 * 100
    alike = dataclasses.replace(call, band_upper=OPEN)
    assert cycles(claims, alike) == cycles(SIMPLE, alike)


def test_heads_share_a_tile():
    """16 heads of one query: one tile where heads are packed, 16 where they are not."""
    call = dataclasses.replace(CALL, heads=16, heads_kv=1, seqlen_q=1, batch=148)
    packing = dataclasses.replace(SIMPLE, rows=128, packs_heads=True)
    assert cycles(packing, call) == 10 + 32 * 100
    assert cycles(SIMPLE, call) == 10 + 15 * 5 + 16 * 32 * 100


# Nothing known of the chip speaks for it yet; select_sm100.py has why.
NEVER_CHOSEN = {(128, Form.PAIR)}


@pytest.mark.parametrize("variant", [v for forms in FORMS.values() for v in forms])
def test_every_form_is_chosen_for_some_call(variant):
    assert (variant.head_dim, variant.head_dim_v, variant.form) in COSTS
    forms = FORMS[variant.head_dim, variant.head_dim_v]
    lengths = (1, 128, 1024, 16384)
    calls = [
        dataclasses.replace(CALL, seqlen_q=q, seqlen_k=k, batch=batch, band_upper=upper)
        for q, k, batch, upper in itertools.product(lengths, lengths, (1, 8), (0, OPEN))
    ]
    chosen = variant in {cheapest(forms, call) for call in calls}
    assert chosen == ((variant.head_dim, variant.form) not in NEVER_CHOSEN)


def test_one_name_for_each_architecture():
    names = [v.name for v in CATALOG if isinstance(v, ForwardVariant) and v.head_dim == 128]
    chosen = for_call([n for n in names if DType.BF16.value in n], CALL)
    assert [name.split("_")[1] for name in chosen] == ["sm90", "sm100"]
