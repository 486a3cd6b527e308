"""Which path a problem is to run on, by `jax_fa4.explain`, and that its program does."""

from __future__ import annotations

import re
from dataclasses import dataclass

import jax_fa4
from tests.fuzz import arguments, problem
from tests.fuzz.problem import Problem

_TARGET = re.compile(r'custom_call_target="jax_fa4_(?:emulated_)?(fwd|bwd|decode)_')


@dataclass(frozen=True)
class Path:
    """What runs on kernels. `gradient` is None where no gradient was asked for."""

    forward: bool
    gradient: bool | None

    def __str__(self) -> str:
        if not self.forward:
            return "on the portable path"
        if self.gradient is False:
            return "on a kernel but for the gradient"
        return "on kernels"

    def check(self, program: str) -> None:
        """AssertionError unless a compiled program calls these kernels and no others."""
        found = kernels_of(program)
        wanted = {"fwd"} if self.forward else set()
        wanted |= {"bwd"} if self.gradient else set()
        assert found == wanted, f"explain says {self}, the program calls kernels {found or 'none'}"


def kernels_of(program: str) -> set[str]:
    """Which of "fwd", "bwd" and "decode" a compiled program calls."""
    return set(_TARGET.findall(program))


PORTABLE = Path(False, None)


def explained(asked: Problem, implementation: str) -> Path:
    """What `explain` says of the problem."""
    x = problem.arrays(asked)
    options = arguments.options(asked, x)
    arrays = [x[name][0] if "cu_seqlens_q" in x else x[name] for name in "qkv"]
    dense = (x.get("bias"), x.get("mask"))
    chosen = None if implementation == "fa4" else implementation
    text = jax_fa4.explain(*arrays, *dense, **options, implementation=chosen)
    forward = text.startswith("kernel")
    gradient = "gradient: kernel" in text
    return Path(forward, gradient if asked.gradients and forward else None)
