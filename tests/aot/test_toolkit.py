"""The toolkit that assembles a kernel is the architecture's, not this machine's."""

import importlib.machinery
import sys

import pytest

from jax_fa4.aot import toolkit
from jax_fa4.variants import Arch

MODULE = "cutlass._mlir._mlir_libs._cutlass_ir"


@pytest.fixture
def dsl(tmp_path, monkeypatch):
    """A DSL with a CUDA 12 toolkit alone, not imported."""
    libraries = tmp_path / "cutlass" / "_mlir" / "_mlir_libs"
    libraries.mkdir(parents=True)
    (libraries / "_cutlass_ir.cu12.cpython-312-x86_64-linux-gnu.so").write_bytes(b"no library")
    spec = importlib.machinery.ModuleSpec("cutlass", None, origin=str(tmp_path / "cutlass" / "x"))
    monkeypatch.setattr(toolkit.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_a_missing_toolkit_says_what_to_install(dsl):
    with pytest.raises(ModuleNotFoundError, match=r"install nvidia-cutlass-dsl\[cu13\]"):
        toolkit.use(Arch.SM100.cuda_major)


def test_the_one_that_is_there_is_loaded(dsl):
    with pytest.raises(ImportError, match="cu12"):
        toolkit.use(Arch.SM90.cuda_major)


def test_it_is_too_late_after_the_import(dsl, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, object())
    with pytest.raises(RuntimeError, match="imported already"):
        toolkit.use(12)
