"""What the extension hands to Python, and its checked-in stub."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jax_fa4 import _ext, ffi
from jax_fa4.variants import CATALOG, parse

STUB = Path(__file__).resolve().parents[2] / "jax_fa4" / "_ext.pyi"


def test_targets_and_stages():
    registrations = _ext.registrations()
    assert set(registrations) == {
        "jax_fa4_fwd_v1",
        "jax_fa4_fwd_fp8_v1",
        "jax_fa4_fwd_bounded_v1",
        "jax_fa4_bwd_v1",
        "jax_fa4_bwd_bounded_v1",
        "jax_fa4_bwd_preprocess_v1",
        "jax_fa4_decode_v1",
    }
    for stages in registrations.values():
        assert set(stages) == {"initialize", "execute"}
        assert all(type(capsule).__name__ == "PyCapsule" for capsule in stages.values())


def test_emulator_targets_and_stages():
    registrations = _ext.emulator_registrations()
    assert set(registrations) == {
        "jax_fa4_emulated_fwd_v1",
        "jax_fa4_emulated_fwd_fp8_v1",
        "jax_fa4_emulated_fwd_bounded_v1",
        "jax_fa4_emulated_bwd_v1",
        "jax_fa4_emulated_bwd_bounded_v1",
        "jax_fa4_emulated_bwd_preprocess_v1",
        "jax_fa4_emulated_decode_v1",
    }
    assert all(set(stages) == {"execute"} for stages in registrations.values())


def test_every_target_has_its_name_in_python():
    assert {*_ext.registrations(), *_ext.emulator_registrations()} == set(ffi.TARGETS)


def test_jax_takes_the_registrations():
    for name, stages in _ext.registrations().items():
        jax.ffi.register_ffi_target(f"{name}_registration_test", stages, platform="CUDA")


def test_variant_names_are_the_catalog():
    assert _ext.variant_names() == [variant.name for variant in CATALOG]
    assert [parse(name) for name in _ext.variant_names()] == list(CATALOG)


def test_build_info():
    info = _ext.build_info()
    assert info["ffi_api_version"] == "0.2", "headers of the oldest supported jaxlib"
    assert info["cutlass_dsl_version"] == "4.8.1"
    assert info["compiler"].startswith("g++ ")
    assert len(info["fingerprint"]) == 16


def signatures_in_stub():
    """name -> signature, for each function of the stub."""
    return {
        node.name: f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


def test_stub_says_what_the_module_has():
    functions = {
        name: getattr(_ext, name).__nb_signature__[0][0].removeprefix("def ")
        for name in dir(_ext)
        if not name.startswith("_")
    }
    # Where nanobind finds the name of the capsule's type depends on the Python version.
    functions = {
        name: re.sub(r"\w+\.CapsuleType", "object", text) for name, text in functions.items()
    }
    assert functions == signatures_in_stub()


@pytest.mark.parametrize("module", ["cutlass", "torch", "nvidia_cutlass_dsl"])
def test_the_extension_imports_without_the_build_requirements(module):
    script = f"import sys; sys.modules[{module!r}] = None; import jax_fa4._ext"
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
