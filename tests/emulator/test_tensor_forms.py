"""Products of tcgen05.mma in every form against the scalar model, where formats end too."""

import matrix_model
import numpy as np
import pytest
from products import KINDS, accumulator, contained, operand
from scalar_model import F16, F32, Fraction, decode, encode
from tensor_forms import Form, formats

FORMS = [
    Form(128, 8),
    Form(64, 16),
    Form(64, 24, lane=16, swizzles=(64, 128)),
    Form(64, 8, a_in_tensor_memory=True),
    Form(64, 8, a="e4m3", b="e5m2", a_in_tensor_memory=True, lane=16),
    Form(64, 16, a="f16", b="f16", d="f16", swizzles=(0, 128)),
    Form(64, 8, scale=1),
    Form(64, 8, scale=15, keeps=True),
    Form(64, 16, a="tf32", b="tf32", swizzles=(0, 128)),
    Form(64, 8, a="tf32", b="tf32", a_in_tensor_memory=True, scale=2),
    Form(64, 16, a="e5m2", b="e4m3", d="f16", negate=(1, 0)),
    Form(64, 16, a="e4m3", b="e4m3", swizzles=(128, 0)),
    Form(64, 8, a="tf32", b="tf32", negate=(0, 1)),
    Form(128, 16, group=2),
    Form(128, 32, group=2, a="e4m3", b="e4m3", keeps=True),
    Form(128, 16, group=2, a="f16", b="f16", d="f16", a_in_tensor_memory=True),
    Form(128, 16, group=2, a="tf32", b="tf32", negate=(1, 1)),
]
LARGE = [
    Form(128, 256, swizzles=(32, 32)),
    Form(128, 64, rows_contiguous=(True, True), swizzles=(128, 64)),
    Form(64, 64, rows_contiguous=(True, False), swizzles=(64, 32)),
    Form(128, 128, group=2, rows_contiguous=(False, True), swizzles=(32, 128)),
    Form(256, 128, group=2, rows_contiguous=(True, True), swizzles=(128, 64)),
    Form(256, 256, group=2, a="e4m3", b="e4m3"),
    Form(128, 64, a="e4m3", b="e4m3", rows_contiguous=(True, True), swizzles=(128, 64)),
    Form(64, 96, a="e5m2", b="e4m3", rows_contiguous=(True, True), swizzles=(32, 32)),
    Form(64, 48, a="e4m3", b="e5m2", rows_contiguous=(False, True), swizzles=(32, 0)),
    # O += P V of the e4m3 forward
    Form(
        128,
        64,
        a="e4m3",
        b="e4m3",
        a_in_tensor_memory=True,
        rows_contiguous=(False, True),
        swizzles=(32, 64),
    ),
    Form(
        128,
        128,
        a="e4m3",
        b="e4m3",
        a_in_tensor_memory=True,
        rows_contiguous=(False, True),
        swizzles=(32, 128),
    ),
    Form(256, 256, group=2, a="e4m3", b="e4m3", rows_contiguous=(False, True), swizzles=(32, 128)),
    Form(256, 32, group=2, a="tf32", b="tf32", a_in_tensor_memory=True, keeps=True),
    Form(256, 240, group=2, a="f16", b="f16", d="f16"),
]


def scaled(bits, form):
    """The accumulator times 2^-scale, to the nearest float32."""
    sign, magnitude = decode(bits, F32)
    if magnitude in (0, float("inf")) or magnitude != magnitude:
        return bits
    return encode((sign, magnitude * Fraction(1, 2**form.scale)), F32)


def case(form, kind, seed=1):
    """(a, b, tensor memory before, and after) of a form."""
    d = F16 if form.d == "f16" else F32
    a_form, b_form = formats(form)
    a = operand(a_form, (form.m, form.k), kind, seed)
    b = operand(b_form, (form.n, form.k), kind, seed + 1)
    c = accumulator(d, (form.m, form.n), kind, seed + 2).astype(np.uint32)
    signs = [sign << (f.bits - 1) for sign, f in zip(form.negate, formats(form), strict=True)]
    total = c
    if form.scale:
        total = np.vectorize(lambda bits: scaled(bits, form), otypes=[np.uint32])(c)
    expected = matrix_model.product(a ^ signs[0], (b ^ signs[1]).T, total, (a_form, b_form), d)
    before = np.full((form.group, 128, form.columns), 0x7FABCDEF, np.uint32)
    after = before.copy()
    places = form.cells((form.m, form.n))
    before[places], after[places] = c, expected
    return contained(a, form.a), contained(b, form.b), before, after


def kept(form, seed=5):
    """Some lanes to leave alone, and tensor memory's mask of them."""
    if not form.keeps:
        return (0,) * 8, np.zeros((form.group, 128), bool)
    lanes = np.random.default_rng(seed).random((form.group, 128)) < 0.3
    words = np.packbits(lanes.reshape(-1, 32), axis=1, bitorder="little").view(np.uint32)
    return tuple([*words.reshape(-1).tolist(), 0, 0, 0, 0][:8]), lanes


def check(run, form, kind, **how):
    a, b, before, after = case(form, kind)
    words, lanes = kept(form)
    got = form.run(run, a, b, before, words, **how)
    np.testing.assert_array_equal(got, np.where(lanes[..., None], before, after))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_form(run_ptx, form, kind):
    check(run_ptx, form, kind)


@pytest.mark.parametrize("form", LARGE, ids=str)
def test_layout(run_ptx, form):
    """Small integers, whose sums are exact; every element of D in its place."""
    rng = np.random.default_rng(form.n)
    a, b = rng.integers(-3, 4, (form.m, form.k)), rng.integers(-3, 4, (form.n, form.k))
    c = rng.integers(-9, 10, (form.m, form.n))
    d = F16 if form.d == "f16" else F32
    bits = [pattern(x, f) for x, f in zip((a, b, c), (*formats(form), d), strict=True)]
    before = np.full((form.group, 128, form.columns), 0x7FABCDEF, np.uint32)
    after = before.copy()
    places = form.cells((form.m, form.n))
    before[places], after[places] = bits[2], pattern(c + a @ b.T, d)
    words, lanes = kept(form)
    operands = contained(bits[0], form.a), contained(bits[1], form.b)
    got = form.run(run_ptx, *operands, before, words)
    np.testing.assert_array_equal(got, np.where(lanes[..., None], before, after))


def pattern(values, form):
    """Patterns of integers, by a table."""
    least, most = int(values.min()), int(values.max())
    table = [encode((int(x < 0), Fraction(abs(x))), form) for x in range(least, most + 1)]
    return np.array(table)[values - least]


@pytest.mark.parametrize("completion", ["earliest", "latest"])
def test_nothing_is_added_to_a_new_accumulator(run_ptx, completion):
    form = Form(64, 8, enable=0)
    a, b, before, _ = case(form, "moderate")
    a_form, b_form = formats(form)
    after = before.copy()
    zeros = np.zeros((64, 8), np.uint32)
    after[form.cells((64, 8))] = matrix_model.product(a, b.T, zeros, (a_form, b_form))
    np.testing.assert_array_equal(form.run(run_ptx, a, b, before, completion=completion), after)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        (Form(128, 8), ("kind::f16 ", "kind::i8 "), "kind::i8"),
        (Form(128, 8), (", shape, 1;", ", shape, 1, 16;"), "a scale from 0 to 15"),
        (Form(128, 8, a="e4m3", b="e4m3"), (", shape, 1;", ", shape, 1, 1;"), "kind::f16 or"),
        (Form(128, 8), ("cta_group::1.kind", "cta_group::1.ws.kind"), "ws"),
        (Form(192, 8), None, "descriptor: M = 192, N = 8 for 1 CTAs"),
        (Form(64, 32, group=2), None, "descriptor: M = 64, N = 32 for 2 CTAs"),
        (Form(128, 8, a="f16", b="f16", d="f16", scale=1), None, "a scaled float16 accumulator"),
        (Form(128, 8, d="f16"), None, "descriptor: a float16 accumulator of these elements"),
        (Form(64, 8, lane=8), None, "tensor-memory: D begins at lane 8"),
        (Form(128, 8, lane=16), None, "tensor-memory: D"),
    ],
)
def test_what_does_not_exist_is_refused(run_ptx, finding, form, change, message):
    def run(text, *arguments, **how):
        assert change is None or change[0] in text
        run_ptx(text.replace(*change) if change else text, *arguments, **how)

    m = min(form.m, 128 * form.group)
    a = np.zeros((m, form.k), np.uint16 if form.k == 16 else np.uint8)
    b = np.zeros((form.n, form.k), a.dtype)
    before = np.zeros((form.group, 128, form.columns), np.uint32)
    with pytest.raises(finding, match=message):
        form.run(run, a, b, before)
