"""The decoding kernels on the emulator, through the public call, over poisoned caches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.testing import decode, tolerances
from jax_fa4.testing.decode import DecodeCase

pytestmark = pytest.mark.skipif(
    ffi.extension_problem() is not None or "decode_sm90_bf16_d64" not in ffi.built_variants(),
    reason="NOT TESTED HERE, needs an extension with the decoding kernels",
)

BF16 = jnp.bfloat16
CASES = {
    "one-key": DecodeCase(lengths=(1,), capacity=1),
    "ragged": DecodeCase(lengths=(0, 1, 37, 300, 700), capacity=700, heads=4, heads_kv=2),
    "group-16": DecodeCase(lengths=(15, 700), capacity=704, heads=16),
    "two-tiles": DecodeCase(lengths=(3, 5, 299), capacity=300, queries=5, heads=4),
    "team-of-two": DecodeCase(lengths=(3, 700), capacity=704, queries=4, heads=8),
    "team-of-four": DecodeCase(
        lengths=(900, 0, 350), capacity=960, queries=7, heads=8, page_size=32, window=(500, 0)
    ),
    "two-teams-of-four": DecodeCase(lengths=(500,), capacity=512, queries=16, heads=6, sinks=True),
    "sixteen-queries": DecodeCase(lengths=(9, 400), capacity=400, queries=16, heads=6, heads_kv=2),
    "not-causal": DecodeCase(lengths=(3, 290), capacity=300, queries=8, causal=False),
    "window": DecodeCase(lengths=(2, 90, 600), capacity=640, queries=4, window=(100, None)),
    "softcap": DecodeCase(lengths=(1, 300), capacity=300, softcap=3.0, softmax_scale=1.0),
    "sinks": DecodeCase(lengths=(0, 1, 1290), capacity=1300, queries=3, sinks=True),
    "beyond": DecodeCase(lengths=(-5, 999), capacity=290),
    "head-dim-40": DecodeCase(lengths=(70,), capacity=80, head_dim=40, head_dim_v=24),
    "head-dim-128": DecodeCase(lengths=(700, 5), capacity=700, head_dim=128, heads=8, heads_kv=2),
    "head-dim-96": DecodeCase(lengths=(70, 500), capacity=512, head_dim=96, page_size=32),
    "pages-16": DecodeCase(lengths=(0, 1, 16, 17, 500), capacity=512, page_size=16, heads=4),
    "pages-256": DecodeCase(lengths=(255, 256, 257), capacity=768, page_size=256, queries=2),
    "pages-window": DecodeCase(
        lengths=(700, 60, 5), capacity=768, page_size=64, queries=7, window=(50, 0), sinks=True
    ),
}


def call(case, x, **options):
    return jax_fa4.decode_attention(
        *x[:3],
        key_value_seq_lengths=x.lengths,
        page_table=x.page_table,
        learnable_sink=x.sinks,
        implementation="emulator",
        **case.options,
        **options,
    )


def found(case, x, **options):
    out, lse = jax.jit(functools.partial(call, case, **options))(x)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


def check(case, dtype=BF16, **options):
    x = decode.make(case, dtype)
    results = found(case, x, **options)
    tolerances.check(results, decode.exact(case, x), decode.plain(case, x))
    return results


@pytest.mark.parametrize("arch", ["sm90", "sm100"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_definition(name, arch):
    with jax_fa4.emulator.options(arch=arch, level="hardware" if arch == "sm100" else "ptx"):
        check(CASES[name])


@pytest.mark.parametrize("name", ["two-tiles", "head-dim-128"])
def test_float16(name):
    check(CASES[name], jnp.float16)


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_any_number_of_parts(parts):
    case = DecodeCase(lengths=(0, 40, 600, 1500), capacity=1536, queries=2, heads=4, sinks=True)
    check(case, num_splits=parts)


def test_the_same_bits_under_every_order_of_events():
    case = DecodeCase(lengths=(700, 300), capacity=704, queries=3, heads=4, page_size=32)
    x = decode.make(case, BF16)
    bits = set()
    for seed, completion in enumerate(("earliest", "latest", "random", "random")):
        with jax_fa4.emulator.options(seed=seed, completion=completion):
            results = found(case, x, num_splits=2)
        bits.add(tuple(a.tobytes() for a in results.values()))
    assert len(bits) == 1


@st.composite
def cases(draw):
    heads_kv = draw(st.sampled_from([1, 2]))
    capacity = draw(st.integers(16, 900))
    side = st.one_of(st.none(), st.integers(0, 40), st.integers(0, 900))
    width = draw(st.sampled_from([8, 64, 128]))
    return DecodeCase(
        lengths=tuple(draw(st.lists(st.integers(0, capacity), min_size=1, max_size=3))),
        capacity=capacity,
        queries=draw(st.integers(1, 16)),
        heads=heads_kv * draw(st.sampled_from([1, 3, 8, 16])),
        heads_kv=heads_kv,
        head_dim=width,
        page_size=draw(st.sampled_from([0, 0, 16, 64, 256])),
        causal=draw(st.booleans()),
        window=(draw(side), draw(side)),
        softcap=draw(st.sampled_from([0.0, 2.5])),
        sinks=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=12, deadline=None)
@given(cases(), st.sampled_from(["sm90", "sm100"]), st.integers(1, 4), st.integers(0, 2**31))
def test_agrees_whatever_the_case(case, arch, parts, seed):
    level = "hardware" if seed % 2 else "ptx"
    with jax_fa4.emulator.options(arch=arch, seed=seed, level=level):
        check(case, num_splits=parts)


def test_vmap_shares_a_cache_that_is_not_mapped():
    case = DecodeCase(lengths=(40, 90, 3, 77), capacity=96, queries=2, heads=4)
    x = decode.make(case, BF16)
    one = dataclasses.replace(case, lengths=(40, 90))

    def sequences(q, k, v, lengths):
        return call(one, x._replace(q=q, k=k, v=v, lengths=lengths))

    split = [a.reshape(2, 2, *a.shape[1:]) for a in x[:4]]
    for a, b in zip(jax.vmap(sequences)(*split), call(case, x), strict=True):
        np.testing.assert_array_equal(a.reshape(b.shape), b)


def test_pages_that_a_table_names_out_of_range_are_the_nearest():
    case = DecodeCase(lengths=(40, 20), capacity=48, page_size=16)
    x = decode.make(case, BF16)
    x = x._replace(k=jnp.nan_to_num(x.k), v=jnp.nan_to_num(x.v))
    wild = x._replace(page_table=jnp.array([[-7, 2**31 - 1, 99], [-(2**31), 5, 0]], jnp.int32))
    tame = x._replace(page_table=jnp.clip(wild.page_table, 0, x.k.shape[0] - 1))
    for a, b in zip(call(case, wild), call(case, tame), strict=True):
        np.testing.assert_array_equal(a, b)
