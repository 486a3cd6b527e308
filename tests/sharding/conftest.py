"""Calls by each path, on the devices that the path runs on."""

import sys
from pathlib import Path

import pytest

import jax_fa4
from jax_fa4 import ffi

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file


NO_EXTENSION = ffi.extension_problem()


def emulated_hopper():
    """Calls of the emulator take one family's kernels; skipped where none are compiled."""
    if NO_EXTENSION is not None:
        pytest.skip(f"NOT TESTED HERE, needs the extension: {NO_EXTENSION}")
    return jax_fa4.emulator.options(arch="sm90")


@pytest.fixture(params=["xla", "emulator", pytest.param("fa4", marks=pytest.mark.gpu)])
def implementation(request):
    """The portable path, one family's kernels emulated, and the kernels on GPUs."""
    if request.param == "emulator":
        with emulated_hopper():
            yield request.param
    else:
        yield request.param


@pytest.fixture
def emulated():
    """One family's kernels emulated."""
    with emulated_hopper():
        yield "emulator"
