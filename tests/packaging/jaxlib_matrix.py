"""Does one binary load on every supported jaxlib? Makes scratch environments and tries.

    python tests/packaging/jaxlib_matrix.py WHEEL [WHEEL ...] [--python PATH ...]

Each wheel is tried with each interpreter that takes it and each JAX version that the interpreter
takes. In each environment a handler is called on the CPU with arguments that it refuses: the words
of its refusal prove that XLA accepted the handler and understood its answer.
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

PROBE = """
import jax, jaxlib, jax.numpy as jnp, numpy as np
from jax_fa4 import _ext
target = "jax_fa4_fwd_v1"
jax.ffi.register_ffi_target("probe", _ext.registrations()[target], platform="cpu")
q = jnp.zeros((1, 4, 2, 64), jnp.bfloat16)
results = [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((1, 2, 4), jnp.float32)]
scalars = dict(softmax_scale=np.float32(1), band_lower=np.int32(0), band_upper=np.int32(0))
try:
    call = jax.ffi.ffi_call("probe", results)
    jax.block_until_ready(call(q, q, q, variants="no_such_kernel", **scalars))
except Exception as error:
    words = str(error)
    assert "variant no_such_kernel is not in this build" in words, words
    print(f"jax {jax.__version__}, jaxlib {jaxlib.__version__}: refused as it should be")
else:
    raise SystemExit("the call was not refused")
"""


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
        return run(installed, "-P", "-c", PROBE)


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
