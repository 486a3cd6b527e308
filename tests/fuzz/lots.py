"""A lot of problems with one seed, and what became of them."""

from __future__ import annotations

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import illegal, run
from tests.fuzz.problem import problems

LOT = 25


class Counts(dict[str, int]):
    """How many calls gave a right result, were refused, or gave a right error."""

    def add(self, outcome: str) -> None:
        self[outcome] = self.get(outcome, 0) + 1

    def __str__(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in sorted(self.items()))


def run_lot(seed: int, implementation: str, counts: Counts, *, shrink: bool = False) -> None:
    """Runs the lot; an AssertionError with the problem that fails, if one does."""
    legal = problems(implementation).map(lambda asked: (asked,))
    asked = st.integers(0, 9).flatmap(lambda n: illegal.calls() if n == 0 else legal)

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
        if len(what) == 1:
            counts.add(run.check(what[0], implementation))
        else:
            illegal.check(*what, implementation)
            counts.add("illegal, refused rightly")

    one()
