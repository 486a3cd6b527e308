"""The extension is closed: it exports its entry alone and needs libc alone."""

import re
import subprocess

import pytest

from jax_fa4 import _ext


def dynamic_section():
    return subprocess.run(
        ["objdump", "-p", _ext.__file__], capture_output=True, text=True, check=True
    ).stdout


def test_needs_libc_alone():
    needed = re.findall(r"NEEDED\s+(\S+)", dynamic_section())
    loader_and_libc = re.compile(r"ld-linux.*|lib(c|m|dl|pthread)\.so\.\d")
    assert [name for name in needed if not loader_and_libc.fullmatch(name)] == []


def test_exports_its_entry_alone():
    """The eight functions that kernels call, and the kernels' own symbols, stay inside."""
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", _ext.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["PyInit__ext"]


@pytest.mark.parametrize("name", ["_cudaLaunchKernelEx", "_cuKernelGetAttribute"])
def test_leaves_none_of_the_eight_functions_open(name):
    undefined = subprocess.run(
        ["nm", "-D", "--undefined-only", _ext.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert name not in undefined
