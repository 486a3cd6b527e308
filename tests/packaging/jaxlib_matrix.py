"""Does one binary load on every supported jaxlib? Makes scratch environments and tries.

    python tests/packaging/jaxlib_matrix.py WHEEL [WHEEL ...] [--python PATH ...]

Each wheel is tried with each interpreter that takes it and each JAX version that the interpreter
takes: a handler answers XLA, and a kernel runs on the emulator (probe.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

JAX_VERSIONS = {
    (3, 11): ("0.9.0", "0.9.2", "0.10.2"),
    (3, 12): ("0.9.0", "0.10.2", "0.11.0", "0.11.2", "0.12.0.1"),
    (3, 13): ("0.9.0", "0.12.0.1"),
}

PROBE = Path(__file__).with_name("probe.py")


def run(*command: str | Path) -> str:
    finished = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        raise RuntimeError((finished.stdout + finished.stderr)[-2000:])
    return finished.stdout.strip()


def takes(python: str, wheel: Path) -> bool:
    """Whether pip of the interpreter would install the wheel."""
    command = [python, "-m", "pip", "install", "--dry-run", "--no-deps", str(wheel)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def version_of(python: str) -> tuple[int, int]:
    major, minor = run(python, "-c", "import sys; print(*sys.version_info[:2])").split()
    return int(major), int(minor)


def probe(python: str, jax_version: str, wheel: Path) -> str:
    """What the handler said in a new environment."""
    with tempfile.TemporaryDirectory() as directory:
        run(python, "-m", "venv", directory)
        installed = Path(directory) / "bin" / "python"
        # jax alone would take a newer jaxlib of its series; of the oldest the very first counts.
        pins = [f"jax=={jax_version}", *(["jaxlib==0.9.0"] if jax_version == "0.9.0" else [])]
        run(installed, "-m", "pip", "install", "--quiet", *pins, wheel)
        return run(installed, "-P", PROBE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    options = parser.parse_args()
    failures = 0
    for wheel in options.wheels:
        for python in filter(lambda path: takes(path, wheel), options.python):
            version = version_of(python)
            for jax_version in JAX_VERSIONS[version]:
                try:
                    outcome = probe(python, jax_version, wheel)
                except RuntimeError as error:
                    failures += 1
                    outcome = f"jax {jax_version}: FAILED\n{error}"
                name = f"{wheel.name}  python {version[0]}.{version[1]}"
                print(f"{name}  {outcome}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
