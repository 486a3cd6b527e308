"""`python -m jax_fa4.emulator`, as users run it."""

import re

import pytest

from jax_fa4 import _ext, emulator
from jax_fa4.emulator.__main__ import main

VARIANT = "fwd_sm90_bf16_d64"


def test_list(capsys):
    assert main(["list"]) == 0
    names = capsys.readouterr().out.split()
    assert VARIANT in names
    assert "bwd_preprocess_sm90_bf16" in names
    assert "fwd_sm100_bf16_d128" in names


def test_report(capsys):
    assert main(["report", VARIANT, "--shape", "1,192,128,1,1,64"]) == 0
    printed = capsys.readouterr().out
    total = int(re.search(r"(\d+) instructions of warps", printed)[1])
    section = printed[printed.index("by opcode") :].split("\n\n")[0]
    opcodes = re.findall(r"^ +(\d+) +\d+ +\d+  [a-z]", section, re.M)
    assert sum(map(int, opcodes)) == total
    chapters = re.findall(r"^(?:[a-z,5 ]+[a-z])(?: +\d+)+ +(\d+)$", printed, re.M)
    assert sum(map(int, chapters)) == total
    assert f"{2 * 192 * 128 * 64:14d}  multiplications" in printed
    assert re.search(r"^findings\n  none$", printed, re.M)
    assert "consumer 2 (warps 12-15)" in printed


def test_trace(capsys, tmp_path):
    assert main(["trace", VARIANT, "--shape", "1,384,128,1,1,64", "--cta", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{VARIANT}, CTA 1, steps ")
    assert "The emulator models no time" in printed
    picture = tmp_path / "trace.png"
    assert main(["trace", VARIANT, "--output", str(picture)]) == 0
    assert picture.stat().st_size > 10_000


def test_trace_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setattr("jax_fa4.emulator.timeline.can_draw", lambda: False)
    assert main(["trace", VARIANT, "--output", "trace.png"]) == 2
    assert "pip install '.[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("bwd_preprocess_sm90_fp16", "2,40,40,2,1,72"),
        ("bwd_sm90_bf16_d64", "1,70,140,2,1,40", "--causal"),
        ("bwd_sm90_fp16_d128", "1,70,140,2,1,104", "--level", "hardware"),
        ("bwd_postprocess_sm90_bf16", "1,70,30,2,2,96"),
        ("bwd_sm100_bf16_d96", "1,130,140,2,1,96", "--causal"),
        ("bwd_postprocess_sm100_fp16", "1,130,60,1,1,40"),
    ],
)
def test_run_of_the_backward(capsys, arguments):
    variant, shape, *more = arguments
    assert main(["run", variant, "--shape", shape, "--completion", "latest", *more]) == 0
    assert capsys.readouterr().out.endswith("verdict: OK\n")


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("kind", ["bounded", "bounded_softcap"])
def test_run_of_a_bounded_kernel(capsys, direction, kind):
    """On random segments, within a causal mask."""
    name = f"{direction}_sm90_bf16_d64_{kind}"
    assert main(["run", name, "--shape", "1,100,150,2,1,64", "--causal"]) == 0
    assert "verdict: OK" in capsys.readouterr().out


def test_report_of_the_backward_is_of_the_kernel_asked_for(capsys):
    """It runs between its helpers, and its five products and the exponentials are its own."""
    assert main(["report", "bwd_sm90_bf16_d64", "--shape", "1,128,128,1,1,64"]) == 0
    printed = capsys.readouterr().out
    products = int(re.search(r"(\d+)  multiplications", printed)[1])
    assert products >= 5 * 128 * 128 * 64
    assert f"{128 * 128:14d}  exponentials" in printed
    assert re.search(r"^findings\n  none$", printed, re.M)


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
        (["report", "fwd_sm100_bf16_d32"], "lacks the kernel fwd_sm100_bf16_d32"),
        (["run", "bwd_preprocess_sm90_bf16", "--causal"], "knows no mask"),
        (["trace", "bwd_preprocess_sm90_bf16"], "the kernel never synchronises"),
        (["trace", VARIANT, "--cta", "3"], "no events of CTA 3: there are some of the CTAs 0"),
        (["run", VARIANT, "--shape", "1,8,8,1,1,128"], "takes head dims up to 64"),
        (["run", "bwd_sm90_bf16_d64", "--shape", "1,8,8,1,1,72"], "takes head dims up to 64"),
        (["run", "bwd_postprocess_sm90_bf16", "--shape", "1,8,8,1,1,512"], "follows no kernel"),
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
