"""What explain, is_supported and the like say, on machines that tests only pretend to be."""

import jax
import jax.numpy as jnp
import pytest

import jax_fa4

X = jax.ShapeDtypeStruct((1, 8, 2, 64), jnp.bfloat16)


def test_supported(machine):
    machine("9.0")
    assert jax_fa4.is_supported(X, X, X, is_causal=True) is None
    text = jax_fa4.explain(X, X, X, causal=True)
    assert text == (
        "kernel fwd_sm90_bf16_d64 on NVIDIA Test (compute capability 9.0); "
        "gradient: kernel bwd_sm90_bf16_d64_serial"
    )
    machine("10.3")
    text = jax_fa4.explain(X, X, X, causal=True)
    assert text.startswith("kernel fwd_sm100_bf16_d64")


def test_explain_says_why_a_gradient_is_portable(machine):
    machine("9.0", built={"fwd_sm90_bf16_d64"})
    text = jax_fa4.explain(X, X, X, deterministic=True)
    assert text.startswith("kernel fwd_sm90_bf16_d64 on NVIDIA Test")
    assert "gradient: portable path (XLA): no deterministic backward kernel" in text


def test_workspace(machine):
    machine("9.0")
    rows = 2 * 128  # 2 heads of 8 queries
    expected = 4 * (rows * (64 + 2) + rows // 64)
    assert jax_fa4.backward_workspace_bytes(X, X, X, causal=True) == expected
    batches = jax.ShapeDtypeStruct((3, 5, 8, 2, 64), jnp.bfloat16)
    assert jax_fa4.backward_workspace_bytes(batches, batches, batches) == 15 * expected
    assert jax_fa4.backward_workspace_bytes(X, X, X, implementation="xla") == 0
    empty = jax.ShapeDtypeStruct((1, 0, 2, 64), jnp.bfloat16)
    assert jax_fa4.backward_workspace_bytes(empty, X, X) == 0
    machine("8.0")
    assert jax_fa4.backward_workspace_bytes(X, X, X) == 0


def test_explain_takes_what_calls_take(machine):
    """Empty arrays, which no kernel is asked about, and several batch axes."""
    machine("10.0")
    empty = jax.ShapeDtypeStruct((1, 0, 2, 64), jnp.bfloat16)
    assert "nothing to compute" in jax_fa4.explain(empty, X, X)
    assert "nothing to compute" in jax_fa4.explain(X, empty, empty)
    batches = jax.ShapeDtypeStruct((3, 5, 8, 2, 64), jnp.bfloat16)
    assert "fwd_sm100_bf16_d64" in jax_fa4.explain(batches, batches, batches)
    nested = [[[0.0] * 8]] * 4  # a list, which becomes float32
    assert "float32" in jax_fa4.explain(nested, nested, nested)


def test_unsupported(machine):
    machine()
    assert "no CUDA device" in jax_fa4.is_supported(X, X, X)
    assert jax_fa4.explain(X, X, X).startswith("portable path (XLA): JAX sees")


def test_asked_for_xla(machine):
    machine("9.0")
    text = jax_fa4.explain(X, X, X, implementation="xla")
    assert text == "portable path (XLA): implementation='xla' was asked for"


def test_bad_input_raises():
    with pytest.raises(ValueError, match="rank"):
        jax_fa4.is_supported(X, jax.ShapeDtypeStruct((2, 4), jnp.bfloat16), X)


def test_build_info():
    info = jax_fa4.build_info()
    assert info["jax"] == jax.__version__
    assert info["jax_fa4"] == jax_fa4.__version__
    assert all(isinstance(value, str) for value in info.values())
