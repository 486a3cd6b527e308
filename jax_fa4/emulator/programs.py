"""What the emulator reads: kernels' PTX, left beside the extension, and hardware tables."""

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


@functools.cache
def load_special_tables() -> None:
    """Hand the emulator an H100's rounding of ex2 and rcp, once per process."""
    ffi.extension().emulator_load_special_tables(*special_tables())


def special_tables() -> tuple[bytes, ...]:
    """An H100's rounding of ex2 for positive and negative arguments, and of rcp."""
    folder = Path(__file__).parent / "special"
    names = ("ex2_positive", "ex2_negative", "rcp")
    return tuple(lzma.decompress((folder / f"{name}.i8.xz").read_bytes()) for name in names)


def _path(variant: str) -> Path:
    # A checkout may come before the installed package, which alone has what was built.
    return Path(str(ffi.extension().__file__)).parent / "emulator" / "ptx" / f"{variant}.ptx.xz"
