"""Packed documents: each is a call of its own, whatever their lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import blocks
from jax_fa4.testing import expected, inputs, tolerances

varlen = jax_fa4.flash_attention_varlen
LENGTHS = [(5, 9), (0, 4), (30, 30), (17, 3), (4, 0), (1, 26)]  # (queries, keys) of documents


def packed(rows=3, keys=2, dtype=jnp.float32, width=16):
    """Inputs of the documents' total lengths, with some rows and keys outside of them all."""
    total = np.sum(LENGTHS, axis=0)
    case = inputs.Case(
        name="varlen",
        batch=1,
        query_length=int(total[0]) + rows,
        key_length=int(total[1]) + keys,
        heads=4,
        heads_kv=2,
        head_dim=16,
        head_dim_v=width,
    )
    ends = [np.cumsum([0, *column]).astype(np.int32) for column in zip(*LENGTHS, strict=True)]
    return case, inputs.make(case, dtype), ends


def mask_of(case, ends, used, causal, window):
    """The mask that a call means, document by document, by a call without others."""
    mask = np.zeros((1, 1, case.query_length, case.key_length), bool)
    for n in range(len(LENGTHS)):
        sq, sk = (min(LENGTHS[n][a], used[a][n]) for a in range(2))
        i, j = np.ogrid[:sq, :sk]
        seen = np.ones((sq, sk), bool)
        if causal:
            seen &= j - i <= sk - sq
        if window[0] is not None:
            seen &= j - i >= sk - sq - window[0]
        if window[1] is not None:
            seen &= j - i <= sk - sq + window[1]
        mask[0, 0, ends[0][n] : ends[0][n] + sq, ends[1][n] : ends[1][n] + sk] = seen
    return mask


@pytest.mark.parametrize("side", [512, 16])
@pytest.mark.parametrize(
    ("causal", "window", "uses"),
    [
        (False, (None, None), False),
        (True, (None, None), False),
        (True, (None, None), True),
        (False, (4, 2), True),
        (True, (6, 9), False),
    ],
)
def test_documents(causal, window, uses, side, monkeypatch):
    monkeypatch.setattr(blocks, "_WIDEST", side)
    monkeypatch.setattr(blocks, "_GRAIN", 4)
    jax.clear_caches()
    case, x, ends = packed()
    used = np.array([[3, 9, 30, 0, 4, 1], [9, 2, 11, 3, 5, 20]]) if uses else np.full((2, 6), 99)

    def call(q, k, v):
        options = {"seqused_q": used[0], "seqused_k": used[1]} if uses else {}
        out, lse = varlen(
            q[0], k[0], v[0], *ends, causal=causal, window_size=window, return_lse=True, **options
        )
        return out[None], lse[None]

    actual = expected.results(call, x, gradients=True)
    given = {
        "softmax_scale": case.scale,
        "band": case.band,
        "mask": mask_of(case, ends, used, causal, window),
    }
    plain = expected.plain(x, gradients=True, **given)
    tolerances.check(actual, expected.exact(x, **given), plain)
    jax.clear_caches()


def test_each_document_is_a_call_of_its_own():
    case, x, ends = packed(dtype=jnp.bfloat16, width=24)
    q, k, v = (a[0] for a in x[:3])
    options = {"causal": True, "softcap": 5.0, "learnable_sink": jnp.arange(4.0)}
    out, lse = jax.jit(functools.partial(varlen, return_lse=True, **options))(q, k, v, *ends)
    assert out.shape == (case.query_length, 4, 24)
    assert lse.shape == (4, case.query_length)
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for n, (sq, sk) in enumerate(LENGTHS):
        if 0 in (sq, sk):
            continue
        rows, keys = (slice(ends[a][n], ends[a][n + 1]) for a in range(2))
        one, one_lse = jax_fa4.flash_attention(
            q[None, rows], k[None, keys], v[None, keys], return_lse=True, **options
        )
        a, b = (np.asarray(y, np.float32) for y in (out[rows], one[0]))
        np.testing.assert_allclose(a, b, atol=2 * eps * np.abs(b).max())
        np.testing.assert_allclose(lse[:, rows], one_lse[0], rtol=1e-5)


def test_rows_outside_of_documents_attend_nothing():
    _, x, ends = packed()
    out, lse = varlen(*(a[0] for a in x[:3]), *ends, return_lse=True)
    assert not out[-3:].any()
    assert np.isneginf(lse[:, -3:]).all()
    assert not out[ends[0][4] : ends[0][5]].any()  # a document without keys
    starting_late = ends[0] + 2
    assert not varlen(*(a[0] for a in x[:3]), starting_late, ends[1])[:2].any()


def test_self_attention_needs_one_array():
    q = jax.random.normal(jax.random.key(0), (20, 2, 8))
    ends = jnp.array([0, 7, 20])
    one = varlen(q, q, q, ends, max_seqlen_q=13, causal=True)
    np.testing.assert_array_equal(one, varlen(q, q, q, ends, ends, causal=True))
    ids = jnp.repeat(jnp.array([[0, 1]]), jnp.array([7, 13]), axis=1)
    by_ids = jax_fa4.dot_product_attention(*[q[None]] * 3, query_segment_ids=ids, is_causal=True)
    np.testing.assert_allclose(one, by_ids[0], atol=1e-6)


def test_traced_lengths_and_vmap():
    q = jax.random.normal(jax.random.key(0), (3, 20, 2, 8))
    ends = jnp.array([[0, 7, 20], [0, 0, 20], [0, 20, 20]])

    def total(q, ends):
        return (varlen(q, q, q, ends, causal=True) ** 2).sum()

    found = jax.jit(jax.vmap(jax.grad(total)))(q, ends)
    for i in range(3):
        np.testing.assert_allclose(found[i], jax.grad(total)(q[i], ends[i]), rtol=1e-4, atol=1e-5)


Q = jax.ShapeDtypeStruct((20, 4, 16), jnp.bfloat16)
K = jax.ShapeDtypeStruct((30, 4, 16), jnp.bfloat16)
ENDS = jnp.array([0, 7, 20])


class TestRefusals:
    @pytest.mark.parametrize(
        ("arrays", "options", "words"),
        [
            (
                (jax.ShapeDtypeStruct((1, 20, 4, 16), jnp.bfloat16), K, K),
                {},
                ["q has shape", "rank 4"],
            ),
            ((Q, K, K), {"cu_seqlens_k": None}, ["pass cu_seqlens_k", "20 and 30 tokens"]),
            ((Q, K, K), {"cu_seqlens_q": jnp.ones(3)}, ["cu_seqlens_q", "float32", "int32"]),
            ((Q, K, K), {"cu_seqlens_q": jnp.ones((1, 3), int)}, ["cu_seqlens_q", "(1, 3)"]),
            ((Q, K, K), {"cu_seqlens_k": jnp.array([0])}, ["cu_seqlens_k", "(1,)"]),
            ((Q, K, K), {"cu_seqlens_k": jnp.array([0, 30])}, ["cu_seqlens_k", "(2,)", "(3,)"]),
            ((Q, K, K), {"seqused_q": jnp.ones(3, int)}, ["seqused_q", "(3,)", "(2,)"]),
            ((Q, K, K), {"seqused_k": jnp.ones(2)}, ["seqused_k", "float32"]),
            ((Q, K, K), {"max_seqlen_q": 2.5}, ["max_seqlen_q", "2.5"]),
            ((Q, K, K), {"max_seqlen_k": -1}, ["max_seqlen_k", "-1"]),
            ((Q, K, K), {"softcap": -1.0}, ["softcap", "-1.0"]),
            ((Q, K, K), {"learnable_sink": jnp.ones(3)}, ["learnable_sink", "(3,)"]),
            ((Q, K, K), {"window_size": (-1, 0)}, ["window_size", "-1"]),
        ],
    )
    def test_wrong_arguments(self, arrays, options, words):
        given = {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS} | options
        with pytest.raises(ValueError, match=words[0]) as info:
            jax.eval_shape(functools.partial(varlen, **given), *arrays)
        assert all(word in str(info.value) for word in words), info.value

    def test_eight_bits(self):
        x = jax.ShapeDtypeStruct((20, 4, 16), jnp.float8_e4m3fn)
        with pytest.raises(NotImplementedError, match="float8_e4m3fn"):
            jax.eval_shape(functools.partial(varlen, cu_seqlens_q=ENDS), x, x, x)
