"""`python -m jax_fa4.aot`, and the same where jax is not installed."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from jax_fa4.aot import __main__ as cli
from jax_fa4.aot.__main__ import main
from jax_fa4.aot.build import CompileError
from jax_fa4.aot.compile import entry_point
from jax_fa4.variants import CATALOG

BOOTSTRAP = Path(__file__).resolve().parents[2] / "jax_fa4" / "aot" / "bootstrap.py"


def test_list_names_the_catalog(capsys):
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [variant.name for variant in CATALOG]


def test_list_by_architecture(capsys):
    assert main(["--list", "--arch", "sm100"]) == 0
    names = capsys.readouterr().out.split()
    assert names
    assert all("_sm100_" in name for name in names)


def test_list_some(capsys):
    assert main(["--list", "--only", "fwd_sm90_bf16_d64", "fwd_sm90_fp16_d64"]) == 0
    assert capsys.readouterr().out.split() == ["fwd_sm90_bf16_d64", "fwd_sm90_fp16_d64"]


def test_list_none(capsys):
    assert main(["--list", "--only"]) == 0
    assert capsys.readouterr().out.split() == []


def test_an_unknown_variant_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(["--list", "--only", "fwd_sm75_bf16_d64"])
    assert exit_status.value.code == 2
    assert "no such variant: fwd_sm75_bf16_d64" in capsys.readouterr().err


def test_without_the_compiler_it_says_so(capsys, monkeypatch, tmp_path):
    def missing():
        raise PackageNotFoundError("nvidia-cutlass-dsl")

    monkeypatch.setattr(cli, "dsl_version", missing)
    assert main(["-o", str(tmp_path), "--cache", str(tmp_path)]) == 1
    assert "No package metadata was found for nvidia-cutlass-dsl" in capsys.readouterr().err


def test_a_failing_variant_is_named_last_and_fails_the_build(capsys, monkeypatch, tmp_path):
    def compiler(variant, directory, host):
        raise CompileError(f"error: the tile does not fit ({host})")

    monkeypatch.setattr(cli, "compile_in_process", compiler)
    monkeypatch.setattr(cli, "fingerprint", lambda variant, host: f"{variant.name}-{host}")
    monkeypatch.setattr(cli, "dsl_version", lambda: "4.8.1")
    names = ["fwd_sm90_bf16_d64", "fwd_sm90_fp16_d64"]
    places = ["-o", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main(["--only", *names, *places, "--host", "aarch64"]) == 1
    errors = capsys.readouterr().err
    assert errors.count("error: the tile does not fit (aarch64)") == 2
    last = errors.splitlines()[-1]
    assert last.startswith("2 of 2 variants failed: ")
    assert all(name in last for name in names)


def test_bootstrap_needs_no_jax():
    script = (
        "import runpy, sys\n"
        "sys.modules['jax'] = None\n"  # importing jax fails
        f"sys.argv = ['bootstrap', '--list', '--arch', 'sm90']\n"
        f"runpy.run_path({str(BOOTSTRAP)!r}, run_name='__main__')\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "fwd_sm90_bf16_d128" in finished.stdout.split(), finished.stderr


def test_entry_point_of_a_header():
    header = "void _mlir_p__mlir_ciface_f_0x0(void **args, int32_t num_args);\n"
    assert entry_point(header) == "_mlir_p__mlir_ciface_f_0x0"
    with pytest.raises(RuntimeError, match="expected one entry point"):
        entry_point("void other(void **args);")
