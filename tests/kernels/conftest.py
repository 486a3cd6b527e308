"""Kernels as the build makes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # what lies beside the tests


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Of a variant: what ptxas made of each of its kernels, and its PTX.

    From the build's cache where it is there, so that what a wheel contains is not compiled again.
    """
    from jax_fa4.aot.build import Builder
    from jax_fa4.aot.cache import Cache, default_directory

    output = tmp_path_factory.mktemp("kernels")
    builder = Builder(
        output=output, cache=Cache(default_directory()), jobs=1, report=lambda line: None
    )

    def build(variant):
        failures = builder.build([variant])
        assert not failures, failures[0].reason
        facts = json.loads((output / f"{variant.name}.json").read_text())["kernels"]
        return facts.values(), (output / f"{variant.name}.ptx").read_text()

    return build
