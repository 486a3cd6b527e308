"""Segment ids and sequence lengths: what they mean, on every path that takes them."""

import functools
from collections.abc import Callable

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jax_fa4
from jax_fa4.ops import blocks
from jax_fa4.ops.band import Band
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.testing.inputs import Case

QL, KL = "query_seq_lengths", "key_value_seq_lengths"
QI, KI = "query_segment_ids", "key_value_segment_ids"


def meaning(case, packing):
    """The boolean matrix (B, 1, Sq, Sk) that a call means, by its definition, in numpy."""
    batch, sq, sk = case.batch, case.query_length, case.key_length
    i, j = np.ogrid[:sq, :sk]
    shape = (batch, 1, 1)
    queries, keys = (
        np.clip(np.asarray(packing.get(name, np.full(batch, n))), 0, n).reshape(shape)
        for name, n in ((QL, sq), (KL, sk))
    )
    shift = keys - queries if case.alignment == "bottom_right" else np.zeros(shape, int)
    left, right = case.window
    seen = (i < queries) & (j < keys)
    if case.causal:
        seen &= j - i <= shift
    if left is not None:
        seen &= j - i >= shift - left
    if right is not None:
        seen &= j - i <= shift + right
    own, other = packing.get(QI), packing.get(KI)
    if own is not None or other is not None:
        own, other = (own if own is not None else other), (other if other is not None else own)
        seen &= np.asarray(own)[:, :, None] == np.asarray(other)[:, None]
    return seen[:, None]


def call(case, packing, implementation=None) -> Callable:
    def attend(q, k, v):
        out, lse = jax_fa4.dot_product_attention(
            q,
            k,
            v,
            is_causal=case.causal,
            local_window_size=case.window,
            causal_alignment=case.alignment,
            return_residual=True,
            implementation=implementation,
            **packing,
        )
        return out, lse.transpose(0, 2, 1)

    return attend


def verify(case, packing, side=None, dtype=jnp.float32):
    x = inputs.make(case, dtype)
    with pytest.MonkeyPatch.context() as patch:
        if side is not None:
            patch.setattr(blocks, "_WIDEST", side)
            patch.setattr(blocks, "_GRAIN", 4)
            jax.clear_caches()
        actual = expected.results(call(case, packing), x, gradients=True)
    # The mask says all of it: bounds contain the band.
    given = {"softmax_scale": case.scale, "band": Band(), "mask": meaning(case, packing)}
    tolerances.check(actual, expected.exact(x, **given), expected.plain(x, gradients=True, **given))


def documents(rng, shape, kind):
    """Ids of positions: sorted runs, or any ids in any order, negative too."""
    if kind == "runs":
        return np.cumsum(rng.random(shape) < 0.1, axis=1).astype(np.int32)
    return rng.integers(-3, 3, shape).astype(np.int32)


@hypothesis.settings(
    max_examples=14,
    deadline=None,
    derandomize=True,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
@hypothesis.given(
    lengths=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    side=st.sampled_from([None, 8, 16]),
    given=st.sets(st.sampled_from(["query lengths", "key lengths", "segments"]), min_size=1),
    kind=st.sampled_from(["runs", "any"]),
    window=st.tuples(st.none() | st.integers(0, 30), st.none() | st.integers(0, 30)),
    causal=st.booleans(),
    alignment=st.sampled_from(["top_left", "bottom_right"]),
    seed=st.integers(0, 99),
)
def test_any_packing(lengths, side, given, kind, window, causal, alignment, seed):
    case = Case(
        name="packing",
        query_length=lengths[0],
        key_length=lengths[1],
        heads=4,
        heads_kv=2,
        head_dim=8,
        window=window,
        causal=causal,
        alignment=alignment,
    )
    rng = np.random.default_rng(seed)
    packing = {}
    if "query lengths" in given:
        packing[QL] = rng.integers(0, lengths[0] + 5, 2)
    if "key lengths" in given:
        packing[KL] = rng.integers(0, lengths[1] + 5, 2)
    if "segments" in given:
        packing[QI] = documents(rng, (2, lengths[0]), kind)
        packing[KI] = documents(rng, (2, lengths[1]), kind)
    verify(case, packing, side)


SELF = Case(name="self", query_length=90, key_length=90, heads=2, head_dim=16, causal=True)
IDS = np.repeat([[1, 2, 5], [0, 3, 1]], 30, axis=1).astype(np.int32)


@pytest.mark.parametrize("name", [QI, KI])
def test_one_array_of_ids_serves_self_attention(name):
    verify(SELF, {name: IDS}, dtype=jnp.bfloat16)


def test_documents_do_not_see_each_other():
    """maxtext#4476: ids that a path ignores let documents attend across each other."""
    x = inputs.make(SELF, jnp.float32)
    whole = call(SELF, {QI: IDS})(*x[:3])
    for begin in range(0, 90, 30):
        cut = slice(begin, begin + 30)
        alone = call(SELF, {})(*(a[:, cut] for a in x[:3]))
        np.testing.assert_allclose(whole[0][:, cut], alone[0], atol=2e-6)
        np.testing.assert_allclose(whole[1][..., cut], alone[1], atol=2e-6)


@pytest.mark.parametrize("is_causal", [False, True])
def test_lengths_are_those_of_jax_nn(is_causal):
    """jax#23349. Rows past the query length are 0 in both; ours say so in lse, too."""
    x = inputs.make(SELF, jnp.float32)
    options = {"is_causal": is_causal, QL: jnp.array([90, 17]), KL: jnp.array([40, 90])}
    ours = jax_fa4.dot_product_attention(*x[:3], **options)
    np.testing.assert_allclose(ours, jax.nn.dot_product_attention(*x[:3], **options), atol=2e-6)
    assert not ours[1, 17:].any()


def test_no_batch_axis_and_several():
    x = inputs.make(SELF, jnp.float32)
    q, k, v = (a[0] for a in x[:3])
    ids = IDS[0]
    one = jax_fa4.dot_product_attention(q, k, v, query_segment_ids=ids, query_seq_lengths=[70])
    many = jax_fa4.dot_product_attention(
        *(jnp.broadcast_to(a, (2, 3, *a.shape)) for a in (q, k, v)),
        query_segment_ids=np.broadcast_to(ids, (2, 3, 90)),
        query_seq_lengths=np.full((2, 3), 70),
    )
    np.testing.assert_allclose(many[1, 2], one, atol=1e-6)


def test_nothing_to_attend():
    x = inputs.make(SELF, jnp.float32)
    packing = {KL: jnp.zeros(2, jnp.int32), QI: IDS, KI: IDS + 10}
    found = expected.results(call(SELF, packing), x, gradients=True)
    assert not any(found[name].any() for name in ("out", "dq", "dk", "dv"))
    assert np.isneginf(found["lse"]).all()


@pytest.mark.parametrize(("batch", "sq", "sk"), [(2, 0, 3), (2, 3, 0), (0, 3, 3)])
def test_empty_arrays(batch, sq, sk):
    q, k = jnp.ones((batch, sq, 2, 8)), jnp.ones((batch, sk, 2, 8))
    ids = {QI: jnp.ones((batch, sq), jnp.int32), KI: jnp.ones((batch, sk), jnp.int32)}
    out = jax_fa4.dot_product_attention(q, k, k, **ids)
    assert out.shape == q.shape
    assert not out.any()


Q = jax.ShapeDtypeStruct((2, 5, 4, 16), jnp.bfloat16)
K = jax.ShapeDtypeStruct((2, 7, 4, 16), jnp.bfloat16)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            (QL, jnp.ones(2), ["float32", "integers"]),
            (KL, jnp.ones(3, jnp.int32), ["(3,)", "(2,)", "batch element"]),
            (QI, jnp.ones((2, 5)), ["float32", "integers", "int32"]),
            (QI, jnp.ones((2, 7), jnp.int32), ["(2, 7)", "(2, 5)", "position"]),
            (KI, jnp.ones((2, 5), jnp.int32), ["(2, 5)", "(2, 7)"]),
            (KI, jnp.ones((2, 7), jnp.int32), [QI, "lengths 5 and 7", "pass"]),
            (QI, jnp.ones((2, 5), jnp.int32), [KI, "lengths 5 and 7", "pass"]),
        ],
    )
    def test_wrong_arrays(self, name, value, words):
        options = {name: value}
        trace = functools.partial(jax_fa4.dot_product_attention, **options)
        with pytest.raises(ValueError, match=name) as info:
            jax.eval_shape(trace, Q, K, K)
        assert all(word in str(info.value) for word in words), info.value
        with pytest.raises(ValueError, match=name):
            jax_fa4.explain(Q, K, K, **options)

    def test_ids_of_64_bits(self):
        with jax.enable_x64(True), pytest.raises(ValueError, match=r"int64.*astype\(jnp.int32\)"):
            jax_fa4.explain(Q, Q, Q, query_segment_ids=jnp.ones((2, 5), jnp.int64))

    @pytest.mark.usefixtures("hopper")
    def test_no_kernel_takes_float32(self):
        x = jax.ShapeDtypeStruct((2, 5, 4, 16), jnp.float32)
        trace = functools.partial(jax_fa4.dot_product_attention, implementation="fa4")
        with pytest.raises(NotImplementedError, match="implementation='xla'"):
            jax.eval_shape(functools.partial(trace, query_seq_lengths=jnp.ones(2, int)), x, x, x)
