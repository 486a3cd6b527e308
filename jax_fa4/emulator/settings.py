"""How the emulator is to run: part of a call, fixed when the call is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from jax_fa4.variants import Arch

Completion = Literal["earliest", "latest", "random"]
Special = Literal["rounded", "h100"]
Level = Literal["ptx", "hardware"]
Family = Literal["sm90", "sm100"]
COMPLETIONS = ("earliest", "latest", "random")
SPECIALS = ("rounded", "h100")
LEVELS = ("ptx", "hardware")
ARCHS = tuple(arch.value for arch in Arch)

_CHOICES = {"completion": COMPLETIONS, "special": SPECIALS, "level": LEVELS, "arch": ARCHS}

# The seed is an int64 attribute, the number of SMs an int32 one.
_MAX_SEED = 2**63 - 1
_MAX_SM_COUNT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides an emulated run besides its inputs.

    `seed` orders the warps and the asynchronous operations. `completion` says when a copy or a
    tensor core product takes effect: as soon as it may ("earliest"), when nothing else can go on
    ("latest") or at any time between ("random"). `exact` rounds products as the tensor cores do;
    without it they are plain float32 sums, which is faster. `special` is how ex2.approx and
    rcp.approx round: correctly, or as an H100 does. `sm_count` is the number of SMs that
    the kernel is told; it divides the work by it. `level` is how strictly the order of accesses is
    judged: by the text of the ISA ("ptx", which the kernels of this package satisfy), or by what
    working kernels of others rely on besides ("hardware"); csrc/emulator/check/README.md has the
    differences. `arch` is the family of GPUs whose kernels run: Hopper ("sm90") or Blackwell
    ("sm100").
    """

    seed: int = 0
    completion: Completion = "random"
    exact: bool = True
    special: Special = "rounded"
    sm_count: int = 132
    level: Level = "ptx"
    arch: Family = "sm90"

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _MAX_SEED:
            raise ValueError(f"seed is {self.seed}, expected a number from 0 to 2**63 - 1")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {expected}")
        if not 1 <= self.sm_count <= _MAX_SM_COUNT:
            raise ValueError(f"sm_count is {self.sm_count}, expected at least 1")

    def attributes(self) -> dict[str, Any]:
        """As attributes of a custom call."""
        return {
            "seed": np.int64(self.seed),
            "completion": self.completion,
            "exact": np.bool_(self.exact),
            "special": self.special,
            "sm_count": np.int32(self.sm_count),
            "level": self.level,
        }


_current: ContextVar[Settings] = ContextVar("jax_fa4 emulator settings", default=Settings())  # noqa: B039


def current() -> Settings:
    """The settings of calls traced now."""
    return _current.get()


@contextlib.contextmanager
def options(**changes: Any) -> Iterator[Settings]:
    """Within it, calls with implementation="emulator" are traced with these settings.

    Takes the fields of `Settings`. A function that was compiled before keeps the settings that
    it was traced with; jit it again inside the context.

    with jax_fa4.emulator.options(seed=3, completion="latest"):
        out = jax_fa4.dot_product_attention(q, k, v, implementation="emulator")
    """
    settings = replace(_current.get(), **changes)
    token = _current.set(settings)
    try:
        yield settings
    finally:
        _current.reset(token)
