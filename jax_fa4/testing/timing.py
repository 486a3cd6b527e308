"""Time functions that enqueue device work: medians of interleaved samples.

A sample is several asynchronous executions and one wait for the last, divided by their
number, so that the host's dispatch overlaps the device's work. Contestants take turns
within each round: what changes with time (clocks, heat, neighbours) meets all alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

MAX_EXECUTIONS = 64
MIN_EXECUTIONS = 3

_wait: Callable[[Any], Any] = jax.block_until_ready


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one execution, a sample a round."""

    samples: tuple[float, ...]
    executions: int

    @property
    def seconds(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: differences below it are noise."""
        return (max(self.samples) - min(self.samples)) / self.seconds


def sample(call: Callable[[], Any], executions: int) -> float:
    """Seconds of one of `executions` asynchronous calls followed by one wait."""
    _wait(call())
    result = None
    start = time.perf_counter()
    for _ in range(executions):
        result = call()
    _wait(result)
    return (time.perf_counter() - start) / executions


def calibrate(call: Callable[[], Any], *, sample_seconds: float = 0.03) -> int:
    """Executions that fill about `sample_seconds`; also compiles, warms up and meets its errors."""
    seconds = sample(call, 1)
    if seconds > 10 * sample_seconds:  # dispatch is nothing beside it
        return 1
    executions = max(MIN_EXECUTIONS, min(MAX_EXECUTIONS, math.ceil(sample_seconds / seconds)))
    sample(call, executions)
    return executions


def interleaved(
    calls: Mapping[str, Callable[[], Any]], executions: Mapping[str, int], *, rounds: int = 5
) -> dict[str, Timing]:
    """One sample of every call in each of `rounds` rounds; `executions` come from `calibrate`."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(sample(call, executions[name]))
    return {
        name: Timing(samples=tuple(taken), executions=executions[name])
        for name, taken in samples.items()
    }
