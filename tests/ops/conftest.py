"""Machines that tests only pretend to be."""

import sys
from pathlib import Path

import pytest

from jax_fa4 import ffi
from jax_fa4.ops import kernel_warning, selection
from jax_fa4.variants import CATALOG

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from machines import gpu


@pytest.fixture
def machine(monkeypatch):
    """machine(capability, ..., built=names): such GPUs, and a build with such kernels."""
    kernel_warning._warn_once.cache_clear()

    def make(*capabilities, built=None):
        names = {v.name for v in CATALOG} if built is None else built
        devices = tuple(gpu(c) for c in capabilities)
        registered = []
        monkeypatch.setattr(selection, "cuda_devices", lambda: devices)
        monkeypatch.setattr(selection, "driver_cuda_version", lambda: (13, 0))
        monkeypatch.setattr(ffi, "built_variants", lambda: frozenset(names))
        monkeypatch.setattr(ffi, "register", lambda: registered.append(True))
        return registered

    yield make
    kernel_warning._warn_once.cache_clear()
