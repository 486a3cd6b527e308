"""decode_attention on the portable path against the definition, over poisoned caches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_fa4
from jax_fa4.ops.decode import portable
from jax_fa4.testing import decode, tolerances
from jax_fa4.testing.decode import DecodeCase

CASES = {
    "one-key": DecodeCase(lengths=(1,), capacity=1),
    "ragged": DecodeCase(lengths=(0, 1, 37, 300, 700), capacity=700, heads=4, heads_kv=2),
    "several": DecodeCase(lengths=(3, 5, 200, 299), capacity=300, queries=5),
    "not-causal": DecodeCase(lengths=(3, 8, 290), capacity=300, queries=8, causal=False),
    "window": DecodeCase(lengths=(2, 90, 600), capacity=640, queries=4, window=(100, None)),
    "both-sides": DecodeCase(
        lengths=(2, 90, 600), capacity=640, queries=9, causal=False, window=(30, 2)
    ),
    "softcap": DecodeCase(lengths=(1, 300), capacity=300, softcap=3.0, softmax_scale=1.0),
    "sinks": DecodeCase(lengths=(0, 1, 290), capacity=300, queries=3, sinks=True),
    "values": DecodeCase(lengths=(9, 300), capacity=300, head_dim=40, head_dim_v=24),
    "beyond": DecodeCase(lengths=(-5, 999), capacity=290),
    "pages-16": DecodeCase(lengths=(0, 1, 16, 17, 500), capacity=512, page_size=16, heads=4),
    "pages-256": DecodeCase(lengths=(255, 256, 257), capacity=768, page_size=256, queries=2),
    "pages-of-3": DecodeCase(lengths=(1, 4, 600), capacity=601, page_size=3, queries=2),
    "pages-wide": DecodeCase(lengths=(900, 20), capacity=1200, page_size=400),
    "pages-window": DecodeCase(
        lengths=(700, 60, 5), capacity=768, page_size=64, queries=16, window=(50, 0), sinks=True
    ),
}


def call(case, x, **options):
    return jax_fa4.decode_attention(
        *x[:3],
        key_value_seq_lengths=x.lengths,
        page_table=x.page_table,
        learnable_sink=x.sinks,
        **case.options,
        **options,
    )


def found(case, x):
    out, lse = jax.jit(functools.partial(call, case))(x)
    assert (out.dtype, lse.dtype) == (x.q.dtype, jnp.float32)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


def check(case, dtype):
    x = decode.make(case, dtype)
    tolerances.check(found(case, x), decode.exact(case, x), decode.plain(case, x))


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_definition(name):
    check(CASES[name], jnp.bfloat16)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
@pytest.mark.parametrize("name", ["several", "softcap", "pages-window"])
def test_agrees_in_other_precisions(name, dtype):
    check(CASES[name], dtype)


@st.composite
def cases(draw):
    heads_kv = draw(st.sampled_from([1, 2]))
    capacity = draw(st.integers(1, 600))
    queries = draw(st.integers(1, min(16, capacity)))
    side = st.one_of(st.none(), st.integers(0, 40), st.integers(0, 700))
    return DecodeCase(
        lengths=tuple(draw(st.lists(st.integers(0, capacity), min_size=1, max_size=3))),
        capacity=capacity,
        queries=queries,
        heads=heads_kv * draw(st.sampled_from([1, 3, 16])),
        heads_kv=heads_kv,
        head_dim=draw(st.sampled_from([8, 24])),
        page_size=draw(st.sampled_from([0, 0, 1, 16, 64, 256])),
        causal=draw(st.booleans()),
        window=(draw(side), draw(side)),
        softcap=draw(st.sampled_from([0.0, 2.5])),
        sinks=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=12, deadline=None)
@given(cases())
def test_agrees_whatever_the_case(case):
    check(case, jnp.bfloat16)


def test_visits_only_blocks_that_somebody_sees(monkeypatch):
    """Cost follows the lengths: the blocks' numbers are traced, and the rest is never fetched."""
    visited = []
    fetch = portable._Blocks.fetch

    def watched(self, index):
        jax.debug.callback(lambda i: visited.append(int(i)), index)
        return fetch(self, index)

    monkeypatch.setattr(portable._Blocks, "fetch", watched)
    case = DecodeCase(lengths=(5000, 4700), capacity=2**16, window=(300, 0))
    check(case, jnp.float32)
    jax.effects_barrier()
    assert sorted(visited) == list(range((4699 - 300) // 256, 5000 // 256 + 1))


def test_long_caches_have_few_blocks():
    """A step of the loop costs a GPU more than 256 keys do."""
    case = DecodeCase(lengths=(16000, 3), capacity=2**14, head_dim=8)
    check(case, jnp.float32)
    x = decode.make(case, jnp.float32)
    blocks = portable._Blocks(x, x.lengths, case.plan.band)
    assert [int(n) for n in blocks.span()] == [0, 16]


def test_a_contiguous_cache_is_pages_of_one_sequence():
    case = DecodeCase(lengths=(100, 7), capacity=128, queries=2)
    x = decode.make(case, jnp.float32)
    table = jnp.array([[1], [0]], jnp.int32)
    paged = x._replace(k=x.k[::-1], v=x.v[::-1], page_table=table)
    for a, b in zip(call(case, x), call(case, paged), strict=True):
        np.testing.assert_array_equal(a, b)


def test_agrees_with_flash_attention_on_full_caches():
    case = DecodeCase(lengths=(300, 300), capacity=300, queries=7, heads=4, heads_kv=2)
    x = decode.make(case, jnp.float32)
    wanted = jax_fa4.flash_attention(*x[:3], causal=True, return_lse=True, implementation="xla")
    for a, b in zip(call(case, x), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_vmap_over_sequences_and_over_a_shared_cache():
    case = DecodeCase(lengths=(40, 90, 3, 77), capacity=96, page_size=16, queries=2, heads=4)
    x = decode.make(case, jnp.float32)

    def one(q, lengths, table):
        return call(case, x._replace(q=q, lengths=lengths, page_table=table))

    split = [a.reshape(2, 2, *a.shape[1:]) for a in (x.q, x.lengths, x.page_table)]
    for a, b in zip(jax.vmap(one)(*split), call(case, x), strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-6, atol=1e-6)


def test_in_shard_map():
    case = DecodeCase(lengths=(400, 90, 3, 700), capacity=768, queries=2, sinks=True)
    x = decode.make(case, jnp.float32)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")
    mapped = jax.shard_map(
        lambda *a: call(case, x._replace(q=a[0], k=a[1], v=a[2], lengths=a[3])),
        mesh=mesh,
        in_specs=(spec,) * 4,
        out_specs=spec,
    )
    for a, b in zip(mapped(*x[:4]), call(case, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_the_bound_refuses_a_key_too_many():
    case = DecodeCase(lengths=(30, 20), capacity=64, heads=4)
    x = decode.make(case, jnp.bfloat16)
    x = x._replace(k=jnp.nan_to_num(x.k, nan=1.0), v=jnp.nan_to_num(x.v, nan=1.0))
    wrong = found(case, x._replace(lengths=x.lengths + 1))
    with pytest.raises(AssertionError, match="error"):
        tolerances.check(wrong, decode.exact(case, x), decode.plain(case, x))


def test_differentiating_names_the_way_out():
    case = DecodeCase(lengths=(9,), capacity=16)
    x = decode.make(dataclasses.replace(case, lengths=(16,)), jnp.float32)
    with pytest.raises(NotImplementedError, match=r"decode_attention has no gradient.*flash_att"):
        jax.grad(lambda q: call(case, x._replace(q=q))[0].sum())(x.q)
