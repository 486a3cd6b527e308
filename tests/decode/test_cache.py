"""append_to_cache: what it writes, what it leaves alone, and that it writes in place."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4

ROW = (2, 8)  # heads, head dim


def caches(first, second):
    shape = (first, second, *ROW)
    return tuple(jnp.full(shape, n, jnp.float32) for n in (-1.0, -2.0))


def new(batch, count):
    k = jnp.arange(1.0, batch * count * 16 + 1).reshape(batch, count, *ROW)
    return k, 1000 + k


def expected(cache, tokens, places):
    """`cache` with tokens[b, i] at places[b, i] = (first, second index), None for nowhere."""
    cache = np.array(cache)
    for b, row in enumerate(places):
        for i, place in enumerate(row):
            if place is not None:
                cache[place] = tokens[b, i]
    return cache


def check(first, second, places, **options):
    old, tokens = caches(first, second), new(len(places), len(places[0]))
    found = jax.jit(lambda *a: jax_fa4.append_to_cache(*a, **options))(*old, *tokens)
    for cache, before, t in zip(found, old, tokens, strict=True):
        np.testing.assert_array_equal(cache, expected(before, t, places))


def int32(*numbers):
    return jnp.array(numbers, jnp.int32)


def test_contiguous():
    places = [[(0, 3), (0, 4)], [(1, 0), (1, 1)]]
    check(2, 6, places, key_value_seq_lengths=int32(3, 0))


def test_what_has_no_place_is_dropped():
    places = [[(0, 5), None], [None, (1, 0)], [None, None]]
    check(3, 6, places, key_value_seq_lengths=int32(5, -1, -9))


def test_ragged_counts():
    places = [[None, None, None], [(1, 2), (1, 3), None]]
    check(2, 6, places, key_value_seq_lengths=int32(2, 2), query_seq_lengths=int32(0, 2))


def test_pages():
    table = jnp.array([[4, 2], [0, 3], [1, 1]], jnp.int32)
    places = [[(4, 3), (2, 0)], [(0, 0), (0, 1)], [(1, 3), None]]
    check(5, 4, places, key_value_seq_lengths=int32(3, 0, 7), page_table=table)


def test_pages_out_of_range_are_not_written():
    table = jnp.array([[0, -1], [5, 3], [-7, 2**31 - 1]], jnp.int32)
    places = [[(0, 3), None], [None, (3, 0)], [None, None]]
    check(5, 4, places, key_value_seq_lengths=int32(3, 3, 3), page_table=table)


def test_then_decode_attention_sees_the_new_tokens():
    k, v = (jax.random.normal(jax.random.key(n), (2, 40, *ROW)) for n in (1, 2))
    q = jax.random.normal(jax.random.key(3), (2, 3, 4, 8))
    lengths = int32(37, 5)
    starts = [37, 5]
    tokens = [jnp.stack([x[b, s : s + 3] for b, s in enumerate(starts)]) for x in (k, v)]
    hidden = [
        jnp.stack([x[b].at[s : s + 3].set(jnp.nan) for b, s in enumerate(starts)]) for x in (k, v)
    ]
    appended = jax_fa4.append_to_cache(*hidden, *tokens, key_value_seq_lengths=lengths)
    found, wanted = (
        jax_fa4.decode_attention(q, *kv, key_value_seq_lengths=lengths + 3)
        for kv in (appended, (k, v))
    )
    np.testing.assert_array_equal(found, wanted)


def compiled(donate, paged):
    """A layer's step: append, attend. Optimised HLO, and the cache's shape in its words."""
    shape = (64, 16, *ROW) if paged else (2, 512, *ROW)
    table = jnp.arange(64, dtype=jnp.int32).reshape(2, 32) if paged else None

    def step(k_cache, v_cache, q, k, v, lengths):
        k_cache, v_cache = jax_fa4.append_to_cache(
            k_cache, v_cache, k, v, key_value_seq_lengths=lengths, page_table=table
        )
        out = jax_fa4.decode_attention(
            q, k_cache, v_cache, key_value_seq_lengths=lengths + 1, page_table=table
        )
        return k_cache, v_cache, out

    cache = jax.ShapeDtypeStruct(shape, jnp.float32)
    token = jax.ShapeDtypeStruct((2, 1, *ROW), jnp.float32)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    jitted = jax.jit(step, donate_argnums=(0, 1) if donate else ())
    text = jitted.lower(cache, cache, token, token, token, lengths).compile().as_text()
    return text, "f32[" + ",".join(map(str, shape)) + "]"


def copies(text, shape):
    """Instructions that make a second cache."""
    return re.findall(rf"= {re.escape(shape)}\S* copy(?:-start)?\(.*", text)


@pytest.mark.parametrize("paged", [False, True])
def test_donated_caches_are_written_in_place(paged):
    text, shape = compiled(True, paged)
    assert shape in text
    assert "input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias) }" in text
    assert copies(text, shape) == []


@pytest.mark.parametrize("paged", [False, True])
def test_without_donation_there_is_a_copy_to_see(paged):
    """So the test above can fail."""
    text, shape = compiled(False, paged)
    assert len(copies(text, shape)) == 2
