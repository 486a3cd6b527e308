"""The self-check passes what is right, and fails what is subtly wrong."""

import jax
import jax.numpy as jnp
import pytest

import jax_fa4
from jax_fa4.demo import self_check
from jax_fa4.demo.self_check import Problem
from jax_fa4.ops import selection

CAUSAL = Problem(dtype="bfloat16", lengths=(40, 56), heads=(4, 2), head_dim=32, causal=True)
ROWS_WITHOUT_KEYS = Problem(
    dtype="float32", lengths=(56, 40), heads=(2, 2), head_dim=32, causal=True
)
WINDOW = Problem(dtype="float16", lengths=(64, 64), heads=(2, 1), head_dim=32, window=(16, 8))


@jax.custom_vjp
def gradient_of_half(x):
    return x


gradient_of_half.defvjp(lambda x: (x, None), lambda _, g: (g / 2,))


def failed(problem: Problem, attention) -> set[str]:
    measurements = self_check.check(problem, attention, seed=0).measurements
    return {name for name, found in measurements.items() if not found.passed}


@pytest.mark.parametrize("problem", [CAUSAL, ROWS_WITHOUT_KEYS, WINDOW], ids=str)
def test_attention_passes(problem):
    report = self_check.check(problem, jax_fa4.flash_attention, seed=0)
    assert not report.failures
    assert set(report.measurements) == set(self_check.RESULTS)
    assert all(0 <= found.share <= 1 for found in report.measurements.values())


def test_the_emulator_runs_where_no_kernel_does(monkeypatch):
    monkeypatch.setattr(self_check, "PROBLEMS", ())
    monkeypatch.setattr(self_check, "EMULATED", self_check.EMULATED[:1])
    monkeypatch.setattr(selection, "cuda_devices", lambda: ())
    (report,) = self_check.run(jax_fa4.flash_attention)
    assert report.path == "emulator"
    assert not report.failures


def test_a_broken_emulator_fails():
    def broken(q, k, v, *, implementation, **kwargs):
        assert implementation == "emulator"
        return jax_fa4.flash_attention(q * 1.1, k, v, **kwargs)

    report = self_check.check(CAUSAL, broken, seed=0, implementation="emulator")
    assert report.failures


def test_the_other_alignment_fails():
    def top_left(q, k, v, *, causal, window_size, return_lse):
        out, lse = jax_fa4.dot_product_attention(q, k, v, is_causal=causal, return_residual=True)
        return out, lse.transpose(0, 2, 1)

    assert failed(CAUSAL, top_left) == set(self_check.RESULTS)


def test_a_window_off_by_one_fails():
    def wider(q, k, v, *, window_size, **kwargs):
        left, right = window_size
        return jax_fa4.flash_attention(q, k, v, window_size=(left + 1, right), **kwargs)

    assert failed(WINDOW, wider) == set(self_check.RESULTS)


def test_rows_without_keys_must_be_said_to_be_empty():
    def finite(q, k, v, **kwargs):
        out, lse = jax_fa4.flash_attention(q, k, v, **kwargs)
        return out, jnp.maximum(lse, -1e30)

    assert "lse" in failed(ROWS_WITHOUT_KEYS, finite)


def test_not_a_number_fails():
    def poisoned(q, k, v, **kwargs):
        out, lse = jax_fa4.flash_attention(q, k, v, **kwargs)
        return out + jnp.zeros_like(out).at[0, 0, 0, 0].set(jnp.nan), lse

    assert failed(CAUSAL, poisoned) == {"out"}


def test_a_wrong_gradient_of_one_input_fails():
    def half(q, k, v, **kwargs):
        return jax_fa4.flash_attention(q, gradient_of_half(k), v, **kwargs)

    report = self_check.check(CAUSAL, half, seed=0)
    assert len(report.failures) == 1
    assert report.failures[0].startswith("dk of [bfloat16")
