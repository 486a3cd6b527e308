"""Calls by each path, on the devices that the path runs on."""

import sys
from pathlib import Path

import pytest

import jax_fa4

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file


@pytest.fixture(params=["xla", "emulator", pytest.param("fa4", marks=pytest.mark.gpu)])
def implementation(request):
    """The portable path, one family's kernels emulated, and the kernels on GPUs."""
    with jax_fa4.emulator.options(arch="sm90"):
        yield request.param


@pytest.fixture
def emulated():
    """One family's kernels emulated."""
    with jax_fa4.emulator.options(arch="sm90"):
        yield "emulator"
