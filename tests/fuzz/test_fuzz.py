"""A small share of `python -m tests.fuzz`, and that it can fail."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.variants import CATALOG
from tests.fuzz import decode, illegal, lots, problem, run

PORTABLE = "right, on the portable path"

FULL = problem.Problem(
    entry="dot_product_attention",
    dtype="float32",
    batch=2,
    lengths=(5, 7),
    heads=(2, 2),
    head_dims=(8, 3),
    causal=True,
    window=(2, None),
    alignment="bottom_right",
    scale=0.3,
    softcap=0.0,
    has=frozenset(),
    dense=(True, True, True, True),
    transform="jit",
    mapped=(True, False, True),
    deterministic=False,
    gradients=True,
    seed=3,
)


DECODE = decode.DecodeProblem(
    dtype="bfloat16",
    batch=3,
    queries=4,
    pages=3,
    page_size=4,
    has_table=True,
    heads=(2, 2),
    head_dims=(8, 5),
    causal=True,
    window=(6, None),
    scale=None,
    softcap=2.0,
    sinks=True,
    num_splits=None,
    transform="jit",
    mapped=(True, False, True, True, True),
    seed=5,
)


@pytest.mark.parametrize("seed", range(3))
def test_a_lot_of_problems(seed):
    report = lots.run_lot(10_000 + seed, "xla")
    assert not report.failures
    assert sum(report.counts.values()) == lots.LOT


@pytest.mark.parametrize("seed", range(2))
def test_a_lot_on_the_emulator(seed):
    if ffi.extension_problem() is not None or len(ffi.built_variants()) < len(CATALOG):
        pytest.skip("NOT TESTED HERE, needs an extension with all kernels")
    report = lots.run_lot(10_000 + seed, "emulator")
    assert not report.failures
    assert report.counts["right, on kernels"] > lots.LOT / 2


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(4))
def test_a_lot_on_the_gpu(seed):
    report = lots.run_lot(20_000 + seed, "fa4")
    assert not report.failures
    assert report.counts["right, on kernels"] > lots.LOT / 2


@pytest.mark.parametrize("transform", problem.TRANSFORMS)
def test_each_transform(transform):
    assert run.check(dataclasses.replace(FULL, transform=transform), "xla") == PORTABLE


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "has",
    ["bias", "mask", "query_lengths", "key_lengths", "segments", "sinks", "score_mod", "mask_mod"],
)
def test_each_argument(has, gradients):
    asked = dataclasses.replace(FULL, has=frozenset([has]), gradients=gradients, softcap=2.0)
    assert run.check(asked, "xla") == PORTABLE


@pytest.mark.parametrize("transform", problem.TRANSFORMS)
@pytest.mark.parametrize("used", [False, True])
def test_packed_documents(used, transform):
    asked = dataclasses.replace(
        FULL,
        entry="flash_attention_varlen",
        batch=1,
        lengths=(20, 30),
        has=frozenset(["used"] if used else []),
        transform=transform,
    )
    assert run.check(asked, "xla") == PORTABLE


@pytest.mark.parametrize("transform", decode.TRANSFORMS)
@pytest.mark.parametrize("has_table", [False, True])
def test_decoding(has_table, transform):
    asked = dataclasses.replace(DECODE, has_table=has_table, transform=transform)
    if not has_table:
        asked = dataclasses.replace(asked, pages=1, page_size=12)
    assert decode.check(asked, "xla") == PORTABLE


@pytest.mark.parametrize("mistake", illegal.MISTAKES, ids=lambda mistake: mistake.argument)
def test_each_mistake(mistake):
    for entry in mistake.entries:
        arguments = illegal.legal(entry, (2, 3, 2, 4), jnp.bfloat16)
        illegal.check(entry, mistake, arguments, None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [{"causal": False}, {"window": (1, None)}, {"scale": 0.35}])
def test_another_result_is_noticed(change, dtype, monkeypatch):
    """The call that was asked for against the definition of another."""
    asked = dataclasses.replace(FULL, dtype=dtype)
    found = run.results(asked, "xla")
    monkeypatch.setattr(run, "results", lambda *_: found)
    with pytest.raises(AssertionError, match="out: error"):
        run.check(dataclasses.replace(asked, **change), "xla")


def test_few_values_whose_rounding_another_order_happens_to_avoid():
    """P rounded before the division by its sum has 4 times the error in dQ of P rounded after."""
    asked = dataclasses.replace(
        FULL,
        dtype="bfloat16",
        batch=1,
        lengths=(2, 9),
        head_dims=(192, 192),
        window=None,
        alignment="top_left",
        scale=1.0,
        seed=7980032,
    )
    assert run.check(asked, "xla") == PORTABLE


@pytest.mark.parametrize("change", [{"causal": False}, {"window": (1, None)}, {"softcap": 0.0}])
def test_another_decoding_is_noticed(change, monkeypatch):
    found = decode.results(DECODE, decode.spoil(DECODE, decode.arrays(DECODE, 5)), (), "xla")
    monkeypatch.setattr(decode, "results", lambda *_: found)
    with pytest.raises(AssertionError, match="out: error"):
        decode.check(dataclasses.replace(DECODE, **change), "xla")


def test_an_ignored_argument_is_noticed(monkeypatch):
    right = jax_fa4.flash_attention
    monkeypatch.setattr(jax_fa4, "flash_attention", lambda *arrays, **_: right(*arrays))
    ones = np.ones((2, 3, 2, 4), np.float32)
    mistake = next(m for m in illegal.MISTAKES if m.argument == "window_size")
    with pytest.raises(AssertionError, match="took window_size"):
        illegal.check("flash_attention", mistake, {"query": ones, "key": ones, "value": ones}, None)
