"""The emulator's settings, what it says about itself, and what it refuses."""

import jax
import jax.numpy as jnp
import pytest

import jax_fa4
from jax_fa4 import _ext, ffi
from jax_fa4.emulator import Settings, current, has_ptx, options, ptx_of

X = jax.ShapeDtypeStruct((1, 8, 2, 64), jnp.bfloat16)


def test_every_kernel_of_the_build_has_its_ptx():
    for name in _ext.variant_names():
        assert has_ptx(name)
        assert ".entry" in ptx_of(name)


def test_options_nest_and_end():
    assert current() == Settings()
    with options(seed=3), options(completion="latest"):
        assert current() == Settings(seed=3, completion="latest")
    assert current() == Settings()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"completion": "soon"}, "completion is 'soon', expected one of 'earliest'"),
        ({"sm_count": 0}, "sm_count is 0"),
        ({"special": "h200"}, "special is 'h200', expected one of 'rounded', 'h100'"),
        ({"arch": "sm80"}, "arch is 'sm80', expected one of 'sm90', 'sm100'"),
        ({"level": "sass"}, "level is 'sass', expected one of 'ptx', 'hardware'"),
    ],
)
def test_bad_options_are_refused(changes, words):
    with pytest.raises(ValueError, match=words), options(**changes):
        pass


def test_settings_are_attributes_of_the_call():
    def call(q, k, v):
        return jax_fa4.flash_attention(q, k, v, implementation="emulator")

    with options(seed=7, completion="latest", exact=False, sm_count=4, level="hardware"):
        text = jax.jit(call).lower(X, X, X).as_text()
    assert ffi.EMULATED_FORWARD_TARGET in text
    for words in ("seed = 7 : i64", 'completion = "latest"', "exact = false", "sm_count = 4 : i32"):
        assert words in text
    assert 'level = "hardware"' in text
    assert 'variants = "fwd_sm90_bf16_d64"' in text


def test_it_says_what_it_runs():
    assert jax_fa4.is_supported(X, X, X, implementation="emulator") is None
    text = jax_fa4.explain(X, X, X, causal=True, implementation="emulator")
    forward = "kernel fwd_sm90_bf16_d64 on the emulator, on the CPU"
    assert text == f"{forward}; gradient: kernel bwd_sm90_bf16_d64_serial"


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (jax.ShapeDtypeStruct((1, 8, 2, 64), jnp.float32), "float32, and the kernels take"),
        (jax.ShapeDtypeStruct((1, 8, 2, 264), jnp.bfloat16), "head dim 264 is above 256"),
    ],
)
def test_what_no_kernel_takes_is_refused(x, words):
    with pytest.raises(NotImplementedError, match=f"implementation='emulator'.*{words}"):
        jax.eval_shape(lambda *a: jax_fa4.flash_attention(*a, implementation="emulator"), x, x, x)
    assert words in jax_fa4.is_supported(x, x, x, implementation="emulator")
    assert "the emulator cannot run it" in jax_fa4.explain(x, x, x, implementation="emulator")


def test_a_build_without_the_kernel_says_so(monkeypatch):
    monkeypatch.setattr(ffi, "built_variants", lambda: frozenset())
    with pytest.raises(NotImplementedError, match="lacks the kernel fwd_sm90_bf16_d64"):
        jax_fa4.flash_attention(*[jnp.zeros(X.shape, X.dtype)] * 3, implementation="emulator")
