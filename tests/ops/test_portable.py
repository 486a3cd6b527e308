"""The portable path, cut into blocks of any size: bias, mask, gradients, memory."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads

from jax_fa4.ops import blocks, portable
from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.scoring import Operands, Scoring
from jax_fa4.testing import expected, inputs, tolerances


def run(x, bias, mask, side, **options):
    """Results of the portable path by name, cut into blocks of at most `side` a side."""

    @jax.jit
    def compute(x, bias, mask):
        q, k, v, dout, dlse = x
        call = (Scoring(**options), Operands(bias, mask))
        out, lse = portable.forward(q, k, v, *call)
        residuals = portable.Residuals(lse, dout, portable.row_delta(out, dout, dlse))
        return out, lse, *portable.backward(q, k, v, residuals, *call)[:4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_WIDEST", side)
        patch.setattr(blocks, "_GRAIN", 4)
        found = compute(x, bias, mask)
    names = ("out", "lse", "dq", "dk", "dv", "dbias")
    return {n: np.asarray(a) for n, a in zip(names, found, strict=True) if a is not None}


def verify(case, side, bias=None, mask=None, dtype=jnp.float32):
    x = inputs.make(case, dtype)
    options = {"softmax_scale": case.scale, "band": case.band}
    actual = run(x, bias, mask, side, **options)
    dense = {"bias": bias, "mask": mask}
    exact = expected.exact(x, **options, **dense)
    tolerances.check(actual, exact, expected.plain(x, gradients=True, **options, **dense))


lengths = st.integers(1, 70)
sides = st.none() | st.integers(0, 40)


TAILS = {"heads": (1, 1), "widths": (8, 8), "window": (None, None), "dtype": jnp.float32}


# A failure is reported as found: shrinking it would compile for minutes.
@hypothesis.settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
@hypothesis.example(lengths=(30, 37), side=16, causal=False, alignment="top_left", **TAILS)
@hypothesis.example(lengths=(37, 30), side=16, causal=True, alignment="bottom_right", **TAILS)
@hypothesis.given(
    lengths=st.tuples(lengths, lengths),
    side=st.integers(8, 80),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    widths=st.sampled_from([(1, 1), (8, 8), (20, 20), (8, 20), (20, 3)]),
    window=st.tuples(sides, sides),
    causal=st.booleans(),
    alignment=st.sampled_from(["top_left", "bottom_right"]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_any_problem(lengths, side, heads, widths, window, causal, alignment, dtype):
    case = inputs.Case(
        name="property",
        query_length=lengths[0],
        key_length=lengths[1],
        heads=heads[0],
        heads_kv=heads[1],
        head_dim=widths[0],
        head_dim_v=widths[1],
        window=window,
        causal=causal,
        alignment=alignment,
    )
    verify(case, side, dtype=dtype)


SHAPES = [(2, 4, 30, 50), (1, 4, 30, 1), (2, 1, 1, 50), (1, 1, 1, 1), (1, 1, 30, 50)]


@pytest.mark.parametrize("side", [16, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_and_its_gradient(shape, side):
    case = inputs.Case(
        name="bias", query_length=30, key_length=50, heads=4, heads_kv=2, head_dim=8, causal=True
    )
    key = jax.random.key(len(shape))
    mask = jax.random.bernoulli(key, 0.7, (*shape[:2], 1, 50))
    verify(case, side, bias=jax.random.normal(key, shape), mask=mask)


def test_bias_of_minus_infinity_hides_keys():
    case = inputs.Case(name="inf", query_length=6, key_length=9, head_dim=8)
    bias = jnp.zeros((1, 1, 6, 9)).at[:, :, 2].set(-jnp.inf).at[..., 4].set(-jnp.inf)
    x = inputs.make(case, jnp.float32)
    found = run(x, bias, None, 64, softmax_scale=case.scale, band=FULL)
    assert not found["out"][:, 2].any()
    assert all(np.isfinite(found[name]).all() for name in ("out", "dq", "dk", "dv", "dbias"))
    assert not found["dk"][:, 4].any()


def test_one_dense_block_for_a_small_model():
    text = jax.jit(functools.partial(portable.forward, scoring=Scoring(1.0))).lower(
        *(jnp.ones((1, 256, 2, 32)),) * 3
    )
    assert "while" not in text.as_text()


def test_blocks_outside_the_band_are_not_visited():
    cut = blocks.Blocks.choose(4096, 4096, heads=1)
    rows, columns = cut.grid
    visits = {
        name: sum(end - first for _, first, end in cut.spans(band))
        for name, band in {
            "full": FULL,
            "causal": Band(upper=0),
            "window": Band(-cut.columns, 0),
            "nothing": Band(5000, 6000),
        }.items()
    }
    assert visits["full"] == rows * columns == 64
    assert visits["causal"] == rows * (rows + 1) // 2
    assert visits["window"] == 1 + 2 * (rows - 1)
    assert visits["nothing"] == 0


def test_band_that_reaches_no_key_in_many_blocks():
    case = inputs.Case(name="nothing", query_length=40, key_length=20, head_dim=8)
    x = inputs.make(case, jnp.float32)
    found = run(x, None, None, 16, softmax_scale=1.0, band=Band(lower=30))
    assert not any(found[name].any() for name in ("out", "dq", "dk", "dv"))
    assert np.isneginf(found["lse"]).all()


@pytest.mark.parametrize("side", [8, 64])
def test_gradients_are_those_of_the_forward(side, monkeypatch):
    """Finite differences of the forward in float64: no reference takes part."""
    from jax_fa4.ops.core import Plan, attention
    from jax_fa4.ops.selection import Path

    monkeypatch.setattr(blocks, "_WIDEST", side)
    monkeypatch.setattr(blocks, "_GRAIN", 4)
    plan = Plan(0.5 + side / 1000, Band(upper=2), Path())
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        q, k, v = (
            jax.random.normal(key, (1, length, heads, width), jnp.float64)
            for key, length, heads, width in zip(
                keys, (13, 15, 15), (2, 1, 1), (3, 3, 2), strict=False
            )
        )
        bias = jax.random.normal(keys[3], (1, 2, 1, 15), jnp.float64)
        call = jax.jit(functools.partial(attention, plan))
        check_grads(lambda q, k, v, b: call(q, k, v, b, None), (q, k, v, bias), 1, modes=["rev"])


def test_memory_grows_with_the_length_not_its_square():
    def temporary(length, backward):
        x = jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32)
        rows = jax.ShapeDtypeStruct((1, 2, length), jnp.float32)
        scoring = Scoring(1.0, Band(upper=0))
        if backward:
            residuals = portable.Residuals(rows, x, rows)
            compiled = jax.jit(functools.partial(portable.backward, scoring=scoring)).lower(
                x, x, x, residuals
            )
        else:
            compiled = jax.jit(functools.partial(portable.forward, scoring=scoring)).lower(x, x, x)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    for backward in (False, True):
        short, long = temporary(2048, backward), temporary(8192, backward)
        assert long < 4.5 * short
        assert long < 2 * 8192 * 8192  # bytes: a small part of one head's scores
