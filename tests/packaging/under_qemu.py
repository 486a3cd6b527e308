"""Does a wheel for aarch64 load and run a kernel? On any machine, under qemu's user emulation.

    dpkg --add-architecture arm64 && apt-get update && apt-get install qemu-user-static
    python tests/packaging/under_qemu.py dist/jax_fa4-*-cp311-*_aarch64.whl

Debian's Python 3.11 for arm64 and its libraries, and jax, jaxlib and numpy for it, are downloaded,
unpacked into --root (kept) and never installed; then probe.py runs there. Nothing is left untested
but the kernels on a GPU and Pythons that Debian does not have: the wheel for 3.12 and later is the
same sources and objects, built for another ABI of Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = [
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "libcrypt1", "libuuid1", "libffi8", "libssl3"),
    *("zlib1g", "libbz2-1.0", "liblzma5", "libexpat1", "libsqlite3-0"),
]
REQUIREMENTS = ("numpy", "ml_dtypes", "scipy", "opt_einsum")
PROBE = Path(__file__).with_name("probe.py")


def run(*command: str | Path, **options: object) -> None:
    subprocess.run([str(word) for word in command], check=True, **options)


def unpack_debian(root: Path) -> None:
    """Python and its libraries, below `root`."""
    downloads = root / "downloads"
    downloads.mkdir(parents=True)
    run("apt-get", "download", *(f"{name}:arm64" for name in PACKAGES), cwd=downloads)
    for package in downloads.glob("*.deb"):
        run("dpkg-deb", "-x", package, root)


def unpack_wheels(root: Path, jax_version: str) -> None:
    """jax and what it needs, in root/site."""
    platforms = [f"--platform=manylinux_2_{n}_aarch64" for n in (17, 27, 28)]
    target = ["--python-version=3.11", "--only-binary=:all:", "--no-deps", "-d", root / "wheels"]
    pinned = [f"jax=={jax_version}", f"jaxlib=={jax_version}"]
    run(sys.executable, "-m", "pip", "download", *platforms, *target, *pinned, *REQUIREMENTS)
    for wheel in (root / "wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(root / "site")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--jax", default="0.10.2", help="its version (default: %(default)s)")
    parser.add_argument("--root", type=Path, default=Path("build/aarch64"))
    options = parser.parse_args()
    root = options.root.absolute()
    if not (root / "usr" / "bin" / "python3.11").exists():
        unpack_debian(root)
    if not (root / "site" / "jax").exists():
        unpack_wheels(root, options.jax)
    zipfile.ZipFile(options.wheel).extractall(root / "site")
    python = ["qemu-aarch64-static", "-L", root, root / "usr" / "bin" / "python3.11"]
    environment = os.environ | {"PYTHONPATH": str(root / "site"), "JAX_PLATFORMS": "cpu"}
    run(*python, "-P", PROBE, env=environment)


if __name__ == "__main__":
    main()
