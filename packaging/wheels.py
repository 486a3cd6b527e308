"""Builds the wheels that are published: manylinux_2_28, for Python 3.11 and for 3.12 and later.

    pip install '.[wheels]'
    python packaging/wheels.py --python python3.11 python3.12 --machine x86_64 aarch64

Any Linux machine builds for both processors: the DSL compiles the kernels' host code for either,
and Zig's C++ compiler, which pip installs, links to the glibc that the tag promises, whatever the
machine has. Each wheel is then repaired (`auditwheel`), checked (`auditwheel`, `twine`, its size)
and left in --out. `tests/packaging/jaxlib_matrix.py` and `tests/packaging/under_qemu.py` run them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
GLIBC = "2.28"
MACHINES = ("x86_64", "aarch64")
LARGEST_BYTES = 40_000_000
AUDITWHEEL = (sys.executable, "-m", "auditwheel")


@dataclass(frozen=True)
class Wheel:
    """One wheel to build: for an interpreter, and for a processor that need not be this one's."""

    python: str
    machine: str

    @property
    def platform(self) -> str:
        return f"manylinux_{GLIBC.replace('.', '_')}_{self.machine}"

    def extension_suffix(self) -> str:
        """How Python names the extension on the wheel's processor."""
        version = output(self.python, "-c", "import sys; print(*sys.version_info[:2], sep='')")
        return (
            ".abi3.so" if int(version) >= 312 else f".cpython-{version}-{self.machine}-linux-gnu.so"
        )


def run(*command: str | Path, **environment: str) -> None:
    print("+", *command, flush=True)
    # What auditwheel runs lies beside this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | {"PATH": path} | environment
    subprocess.run([str(word) for word in command], check=True, env=variables)


def output(*command: str | Path) -> str:
    return subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    ).stdout.strip()


def compilers(directory: Path, machine: str) -> dict[str, str]:
    """CC and CXX: Zig's compilers for a processor and the promised glibc."""
    variables = {}
    for variable, command in (("CC", "cc"), ("CXX", "c++")):
        script = directory / command
        target = f"{machine}-linux-gnu.{GLIBC}"
        script.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {command} -target {target} "$@"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        variables[variable] = str(script)
    # nanobind's headers use stderr and leave <cstdio> to the standard library, which is another.
    return variables | {"CXXFLAGS": "-include cstdio"}


def build(wheel: Wheel, options: argparse.Namespace) -> Path:
    """The wheel as the build makes it, tagged for this Linux alone."""
    folder = options.build_dir.absolute() / f"{wheel.extension_suffix()[1:-3]}-{wheel.platform}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = [
        f"build-dir={folder}",
        f"cmake.define.JAX_FA4_VARIANTS={options.variants}",
    ]
    environment = compilers(folder, wheel.machine)
    if wheel.machine != platform.machine():
        settings += [
            "cmake.define.CMAKE_SYSTEM_NAME=Linux",
            f"cmake.define.CMAKE_SYSTEM_PROCESSOR={wheel.machine}",
        ]
        environment |= {
            "_PYTHON_HOST_PLATFORM": f"linux-{wheel.machine}",
            "SETUPTOOLS_EXT_SUFFIX": wheel.extension_suffix(),
        }
    built = folder / "wheel"
    shutil.rmtree(built, ignore_errors=True)
    command = [wheel.python, "-m", "pip", "wheel", "--no-deps", "-w", built, CHECKOUT]
    command += [f"--config-settings={setting}" for setting in settings]
    command += ["--no-build-isolation"] if options.no_build_isolation else []
    run(*command, **environment)
    (found,) = built.glob("*.whl")
    return found


def repair(wheel: Wheel, built: Path, out: Path) -> Path:
    """The wheel with the tag of the platform; an error where it needs more than that offers."""
    with tempfile.TemporaryDirectory() as directory:
        # By itself auditwheel knows the platforms of this machine's processor alone.
        run(*AUDITWHEEL, "repair", "--plat=auto", "--only-plat", "-w", directory, built)
        (repaired,) = Path(directory).glob("*.whl")
        needed = re.search(r"manylinux_2_(\d+)_" + wheel.machine, repaired.name)
        if needed is None or int(needed[1]) > int(GLIBC.partition(".")[2]):
            raise SystemExit(f"{repaired.name} needs a newer glibc than {GLIBC}")
        tags = ["tags", "--platform-tag", wheel.platform, "--remove"]
        run(sys.executable, "-m", "wheel", *tags, repaired)
        (tagged,) = Path(directory).glob("*.whl")
        return Path(shutil.move(tagged, out / tagged.name))


def check(wheel: Wheel, path: Path) -> None:
    """Tags, libraries, metadata and size as promised."""
    run(sys.executable, "-m", "twine", "check", "--strict", path)
    report = json.loads(output(*AUDITWHEEL, "show", "--json", path))
    print(json.dumps(report["versioned_symbols"]), flush=True)
    size = path.stat().st_size
    if size >= LARGEST_BYTES:
        raise SystemExit(f"{path.name} has {size} bytes, more than {LARGEST_BYTES}")
    if report["external_libs"]:
        raise SystemExit(f"{path.name} needs {report['external_libs']}")
    if not path.name.endswith(f"-{wheel.platform}.whl"):
        raise SystemExit(f"{path.name} is not tagged {wheel.platform}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=["python3.11", "python3.12"])
    parser.add_argument("--machine", nargs="+", choices=MACHINES, default=[platform.machine()])
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--build-dir", type=Path, default=Path("build"), help="kept between builds")
    parser.add_argument("--variants", default="all", help="kernels: all, none, or names by ;")
    parser.add_argument(
        "--no-build-isolation", action="store_true", help="the interpreters have what builds need"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    made = []
    for machine in options.machine:
        for python in options.python:
            wheel = Wheel(python, machine)
            path = repair(wheel, build(wheel, options), options.out)
            check(wheel, path)
            made.append(path)
    for path in made:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
