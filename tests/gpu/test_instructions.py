"""The emulator's own tests, run on a real GPU: the same PTX, the same bits.

JAX_FA4_LAUNCHES names a record of launches that was made before; without it one is made here,
which builds the emulator (a minute or two). JAX_FA4_TABLE: where to write the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))

TESTS = (
    "test_instructions",
    "test_lanes_and_memory",
    "test_asynchronous",
    "test_boxes",
    "test_warp_products",
    "test_wgmma",
    "test_packed",
    "test_approximate",
    "test_threads",
    "test_atomics",
)


@pytest.fixture(scope="session")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of what tests/emulator launches."""
    made = os.environ.get("JAX_FA4_LAUNCHES")
    if made:
        return Path(made)
    path = tmp_path_factory.mktemp("launches") / "launches"
    files = [str(HERE.parent / "emulator" / f"{name}.py") for name in TESTS]
    subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "--numprocesses=0", *files],
        env={**os.environ, "JAX_FA4_RECORD_LAUNCHES": str(path)},
        check=True,
        cwd=HERE.parents[1],
    )
    return path


@pytest.mark.gpu
def test_hardware_agrees(launches: Path) -> None:
    import instructions
    from launches import load

    description, results = instructions.run_all(load(launches))
    text = instructions.table(description, results)
    print(text)
    if "JAX_FA4_TABLE" in os.environ:
        Path(os.environ["JAX_FA4_TABLE"]).write_text(text)
    assert {result.verdict for result in results} <= {"agree", "close", "skipped"}, text
    assert any(result.verdict == "agree" for result in results)
