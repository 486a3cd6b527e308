"""The PTX of the kernels, which the build leaves beside the extension."""

from __future__ import annotations

import functools
import lzma
from pathlib import Path

from jax_fa4 import ffi


def ptx_of(variant: str) -> str:
    """The PTX of a kernel of this build; FileNotFoundError if it has none."""
    return lzma.decompress(_path(variant).read_bytes()).decode()


def has_ptx(variant: str) -> bool:
    """Whether this build can emulate the kernel."""
    return _path(variant).is_file()


@functools.cache
def load(variant: str) -> None:
    """Hand a kernel's PTX to the emulator, once per process."""
    ffi.extension().emulator_load(variant, ptx_of(variant))


def _path(variant: str) -> Path:
    # A checkout may come before the installed package, which alone has what was built.
    return Path(str(ffi.extension().__file__)).parent / "emulator" / "ptx" / f"{variant}.ptx.xz"
