"""The installed package and a checkout complete each other, whichever Python finds first."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

SCRIPT = """
import jax_fa4, jax_fa4._ext, jax_fa4.aot.signatures, jax_fa4.testing
print(jax_fa4.__file__)
print(jax_fa4._ext.__file__)
"""


def found(path_setup):
    """Where a new process finds the package and its extension."""
    command = [sys.executable, "-P", "-c", f"import sys; {path_setup}\n{SCRIPT}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Path(line) for line in finished.stdout.splitlines()]


@pytest.mark.parametrize("first", [True, False], ids=["checkout first", "installed first"])
def test_all_rooms_are_found(first):
    position = 0 if first else 10**6
    package, extension = found(f"sys.path.insert({position}, {str(CHECKOUT)!r})")
    assert package.is_relative_to(CHECKOUT / "jax_fa4") == first
    assert not extension.is_relative_to(CHECKOUT / "jax_fa4")
