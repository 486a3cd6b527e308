"""A lot of problems with one seed, and what became of them."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field

import hypothesis
import jax
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jax_fa4 import emulator
from tests.fuzz import decode, illegal, run
from tests.fuzz.decode import DecodeProblem
from tests.fuzz.problem import Problem, problems

LOT = 25


@dataclass
class Report:
    """How many calls came to what, the legal problems among them, and texts on all that failed."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: set[Problem | DecodeProblem] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.counts += other.counts
        self.problems |= other.problems
        self.failures += other.failures

    def __str__(self) -> str:
        words = [f"{count} {name}" for name, count in sorted(self.counts.items())]
        return ", ".join(words + [f"{len(self.failures)} FAILED"] * bool(self.failures))


def run_lot(seed: int, implementation: str, *, shrink: bool = False) -> Report:
    """Runs all of the lot; with `shrink` only until one fails, and raises with a small problem."""
    legal = problems(implementation).map(lambda asked: (asked,))
    decoding = decode.problems(implementation).map(lambda asked: (asked,))
    kinds = {4: illegal.calls(), 5: decoding, 6: decoding}
    asked = st.integers(0, 9).flatmap(lambda n: kinds.get(n, legal))
    report = Report()

    @hypothesis.seed(seed)
    @settings(
        max_examples=LOT,
        deadline=None,
        database=None,
        print_blob=False,
        phases=(Phase.generate, *([Phase.shrink] if shrink else [])),
        suppress_health_check=list(HealthCheck),
    )
    @given(asked)
    def one(what: tuple[object, ...]) -> None:
        if what[0] in report.problems and not shrink:
            hypothesis.reject()
        if len(what) == 1:
            report.problems.add(what[0])
        try:
            report.counts[_outcome(what, implementation)] += 1
        except Exception:
            if shrink:
                raise
            text = f"seed {seed}: {what}\n{traceback.format_exc(limit=-3)}"
            report.failures.append(text)

    # Hopper and Blackwell by turns, few SMs and many, and warps in an order of the seed's.
    arch, sm_count = ("sm90", "sm100")[seed % 2], (132, 3)[seed // 2 % 2]
    with emulator.options(arch=arch, sm_count=sm_count, seed=seed):
        one()
    return report


def job(seed: int, *, implementation: str, shrink: bool) -> Report:
    """A lot, as a process of its own runs one after the other."""
    jax.config.update("jax_default_matmul_precision", "float32")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    warnings.filterwarnings("ignore", "jax_fa4: (bias|mask) is given")
    try:
        return run_lot(seed, implementation, shrink=shrink)
    finally:
        jax.clear_caches()


def _outcome(what: tuple[object, ...], implementation: str) -> str:
    if isinstance(what[0], DecodeProblem):
        return decode.check(what[0], implementation)
    if isinstance(what[0], Problem):
        return run.check(what[0], implementation)
    illegal.check(*what, implementation)
    return "illegal, refused rightly"
