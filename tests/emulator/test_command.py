"""`python -m jax_fa4.emulator`, as users run it."""

import pytest

from jax_fa4 import _ext, emulator
from jax_fa4.emulator.__main__ import main

VARIANT = "fwd_sm90_bf16_d64"


def test_list(capsys):
    assert main(["list"]) == 0
    names = capsys.readouterr().out.split()
    assert VARIANT in names
    assert all(name.startswith("fwd_sm90_") for name in names)


def test_report_counts_instructions(capsys):
    assert main(["report", VARIANT]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    counts = {opcode: int(count) for count, opcode in map(str.split, lines)}
    assert first.startswith(f"{VARIANT}: {sum(counts.values())} instructions")
    assert sum(n for opcode, n in counts.items() if opcode.startswith("wgmma.mma_async")) > 4
    assert counts["ret"] >= 1


def test_run_passes(capsys):
    shape = "1,70,140,2,1,40"
    assert main(["run", VARIANT, "--shape", shape, "--causal", "--completion", "latest"]) == 0
    assert capsys.readouterr().out.endswith("verdict: OK\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ex2.approx.ftz.f32", "neg.ftz.f32", "largest error nan"),
        ("mul.f32", "frobnicate", "frobnicate"),
    ],
)
def test_run_fails_a_wrong_kernel(capsys, monkeypatch, old, new, words):
    ptx = emulator.ptx_of(VARIANT)
    assert old in ptx
    monkeypatch.setattr(emulator.programs, "ptx_of", lambda _: ptx.replace(old, new))
    emulator.load.cache_clear()
    try:
        assert main(["run", VARIANT]) == 1
    finally:
        emulator.load.cache_clear()
        _ext.emulator_load(VARIANT, ptx)
    printed = capsys.readouterr().out
    assert words in printed
    assert printed.endswith("verdict: FAILED\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "no_such_kernel"], "'no_such_kernel' is not the name of a kernel variant"),
        (["report", "bwd_preprocess_sm90_bf16"], "not a forward kernel"),
        (["run", VARIANT, "--shape", "1,8,8,1,1,128"], "takes head dims up to 64"),
    ],
)
def test_what_it_cannot_run_is_said(capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["1,2", "1,8,8,3,2,64", "0,8,8,1,1,64"])
def test_bad_shapes_are_refused(capsys, shape):
    with pytest.raises(SystemExit) as stop:
        main(["run", VARIANT, "--shape", shape])
    assert stop.value.code == 2
    assert shape in capsys.readouterr().err
