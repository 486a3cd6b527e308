"""A kernel that does something wrong ends in an exception that says what, never in a crash."""

import re

import jax
import jax.numpy as jnp
import pytest
from calls import CASES, emulated

from jax_fa4 import _ext, emulator
from jax_fa4.testing import inputs

CASE = CASES["square"]
VARIANT = "fwd_sm90_bf16_d64"


@pytest.fixture
def broken(request):
    """broken(variant, (old, new), ...): the emulator runs a kernel changed so, in this test."""

    def change(variant, *changes):
        emulator.load(variant)
        ptx = emulator.ptx_of(variant)
        for old, new in changes:
            assert old in ptx, f"{variant} has no {old!r}"
            ptx = ptx.replace(old, new)
        request.addfinalizer(lambda: _ext.emulator_load(variant, emulator.ptx_of(variant)))
        _ext.emulator_load(variant, ptx)

    return change


def run():
    """The case on the emulator; what it raises, as text."""
    q, k, v, *_ = inputs.make(CASE, jnp.bfloat16)
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jax.jit(emulated(CASE))(q, k, v))
    return str(caught.value)


def first(pattern):
    """The first match of a pattern in the kernel's PTX."""
    found = re.search(pattern, emulator.ptx_of(VARIANT))
    assert found is not None, pattern
    return found[0]


def test_a_lost_arrival_is_a_deadlock(broken):
    arrive = first(r"mbarrier\.arrive\.[a-z0-9_.:]+[^;]*;")
    broken(VARIANT, (arrive, ""))
    text = run()
    assert f"{VARIANT} on the emulator: deadlock" in text


def test_lost_waits_are_a_race(broken):
    """Products that do not wait for the copies of their operands."""
    waits = set(re.findall(r"mbarrier\.try_wait[^;]*;", emulator.ptx_of(VARIANT)))
    assert waits
    broken(VARIANT, *((wait, "setp.eq.u32 P1, 0, 0;") for wait in waits))
    text = run()
    assert re.search(f"{VARIANT} on the emulator: (race|uninitialised): ", text)


def test_an_address_out_of_bounds_is_named(broken):
    stores = set(re.findall(r"st\.global\.[a-z0-9.]+\s+\[%rd\d+\]", emulator.ptx_of(VARIANT)))
    assert stores
    broken(VARIANT, *((store, store.replace("]", "+1073741824]")) for store in stores))
    text = run()
    assert "out-of-bounds" in text
    assert "lie in no buffer of the kernel" in text
    assert re.search(r"PTX line \d+", text)


def test_a_kernel_is_whole_again_after_a_broken_one(broken):
    q, k, v, *_ = inputs.make(CASE, jnp.bfloat16)
    before = jax.jit(emulated(CASE))(q, k, v)[0]
    broken(VARIANT, (first(r"mbarrier\.arrive\.[a-z0-9_.:]+[^;]*;"), ""))
    run()
    _ext.emulator_load(VARIANT, emulator.ptx_of(VARIANT))
    assert (jax.jit(emulated(CASE))(q, k, v)[0] == before).all()


def test_an_unknown_instruction_is_shown_where_it_stands():
    ptx = emulator.ptx_of(VARIANT)
    add = re.search(r"add\.s32", ptx)
    assert add is not None
    line = ptx[: add.start()].count("\n") + 1
    with pytest.raises(ValueError, match=f"{VARIANT}: .*{line}") as caught:
        _ext.emulator_load(VARIANT, ptx.replace("add.s32", "frobnicate.s32", 1))
    assert "frobnicate" in str(caught.value)
    assert "^" in str(caught.value)


@pytest.mark.parametrize("text", ["", "nonsense", ".version 9.1", "\0"])
def test_what_is_no_ptx_is_refused(text):
    with pytest.raises(ValueError, match=VARIANT):
        _ext.emulator_load(VARIANT, text)
