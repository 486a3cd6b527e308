"""Both public calls mean what the definition says, on either path, in every dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances


def level1(case, implementation):
    """dot_product_attention on a case, lse turned to (B, H, Sq)."""

    def call(q, k, v):
        out, lse = jax_fa4.dot_product_attention(
            q,
            k,
            v,
            scale=case.softmax_scale,
            is_causal=case.causal,
            local_window_size=case.window,
            causal_alignment=case.alignment,
            return_residual=True,
            implementation=implementation,
        )
        return out, lse.transpose(0, 2, 1)

    return call


def level2(case, implementation):
    """flash_attention on a case, which is bottom-right."""
    return functools.partial(
        jax_fa4.flash_attention,
        softmax_scale=case.softmax_scale,
        causal=case.causal,
        window_size=case.window,
        return_lse=True,
        implementation=implementation,
    )


def dtypes(implementation):
    return (jnp.bfloat16, jnp.float16) if implementation == "fa4" else (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize("case", inputs.CASES, ids=lambda case: case.name)
def test_results_and_gradients_are_those_of_the_definition(case, implementation):
    call = level1 if case.alignment == "top_left" else level2
    gradients = "gradient" in case.tags
    for dtype in dtypes(implementation)[: 2 if "half" in case.tags else 1]:
        x = inputs.make(case, dtype)
        actual = expected.results(call(case, implementation), x, gradients=gradients)
        assert actual["lse"].dtype == np.float32
        assert all(a.dtype == dtype for name, a in actual.items() if name != "lse")
        tolerances.check(actual, *expected.both(x, case, gradients=gradients))


@pytest.mark.parametrize("case", inputs.tagged("half"), ids=lambda case: case.name)
def test_both_levels_agree_on_bottom_right(case, implementation):
    x = inputs.make(case, jnp.bfloat16)
    one, two = (expected.results(f(case, implementation), x) for f in (level1, level2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_float16_on_the_portable_path():
    case = inputs.Case(name="fp16", query_length=70, key_length=90, causal=True)
    x = inputs.make(case, jnp.float16)
    actual = expected.results(level2(case, "xla"), x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


@pytest.mark.parametrize("alignment", ["top_left", "bottom_right"])
def test_gradient_of_lse_alone(alignment, implementation):
    case = inputs.Case(name="lse", query_length=33, key_length=47, causal=True, alignment=alignment)
    dtype = dtypes(implementation)[0]
    x = inputs.make(case, dtype)
    x = x._replace(dout=jnp.zeros_like(x.dout))
    actual = expected.results(level1(case, implementation), x, gradients=True)
    exact, plain = expected.both(x, case, gradients=True)
    tolerances.check(actual, exact, plain)
    assert np.abs(exact["dq"]).max() > 0.01
    assert not actual["dv"].any()


def test_rows_without_keys(implementation):
    """out is 0 and lse -inf where a row attends nothing, and no gradient passes."""
    case = inputs.Case(name="empty rows", query_length=40, key_length=25, causal=True)
    x = inputs.make(case, dtypes(implementation)[0])
    actual = expected.results(level2(case, implementation), x, gradients=True)
    assert not actual["out"][:, :15].any()
    assert np.isneginf(actual["lse"][:, :, :15]).all()
    assert np.isfinite(actual["lse"][:, :, 15:]).all()
    assert not actual["dq"][:, :15].any()
    assert all(np.isfinite(actual[name].astype(np.float32)).all() for name in ("dq", "dk", "dv"))


@pytest.mark.parametrize("value_width", [16, 24])
@pytest.mark.parametrize(("batch", "sq", "sk"), [(0, 4, 4), (2, 0, 5), (2, 5, 0), (0, 0, 0)])
def test_empty_dimensions(batch, sq, sk, value_width, implementation):
    q = jnp.ones((batch, sq, 4, 16), jnp.bfloat16)
    k = jnp.ones((batch, sk, 2, 16), jnp.bfloat16)
    v = jnp.ones((batch, sk, 2, value_width), jnp.bfloat16)
    call = functools.partial(
        jax_fa4.flash_attention, return_lse=True, implementation=implementation
    )
    (out, lse), pull = jax.vjp(call, q, k, v)
    assert out.shape == (batch, sq, 4, value_width)
    assert not out.any()
    assert lse.shape == (batch, 4, sq)
    assert jnp.isneginf(lse).all()
    dq, dk, dv = pull((out, jnp.zeros_like(lse)))
    assert dq.shape == q.shape
    assert dk.shape == k.shape
    assert dv.shape == v.shape
    assert not dk.any()


def test_two_runs_are_bit_equal(implementation):
    """But for dq, to which the backward kernel adds in a varying order."""
    case = inputs.Case(name="twice", query_length=200, key_length=300, heads=4, heads_kv=2)
    x = inputs.make(case, jnp.bfloat16)
    first, second = (
        expected.results(level2(case, implementation), x, gradients=True) for _ in range(2)
    )
    promised = set(first) - ({"dq"} if implementation == "fa4" else set())
    assert all(np.array_equal(first[name], second[name]) for name in promised)


def test_deterministic_gradients_are_bit_equal(implementation):
    """By a kernel that adds in a fixed order, or by the portable path."""
    case = inputs.Case(name="twice", query_length=200, key_length=300, heads=4, heads_kv=2)
    x = inputs.make(case, jnp.bfloat16)
    call = functools.partial(level2(case, implementation), deterministic=True)
    results = [expected.results(call, x, gradients=True) for _ in range(3)]
    for name, first in results[0].items():
        assert all(np.array_equal(first, again[name]) for again in results[1:])
    tolerances.check(results[0], *expected.both(x, case, gradients=True))


@pytest.mark.gpu
def test_implementation_none_is_the_kernel_where_there_is_one():
    x = inputs.make(inputs.CASES[1], jnp.bfloat16)
    compiled = jax.jit(jax_fa4.flash_attention).lower(*x[:3]).compile().as_text()
    assert "jax_fa4_fwd_v1" in compiled
