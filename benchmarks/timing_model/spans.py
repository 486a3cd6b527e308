"""What happened in a replayed launch, and when, in cycles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Span:
    """Something that took time: a wait of a warp, a product, a copy."""

    cta: int
    warp: int
    what: str
    begin: float
    end: float
    line: int = 0


@dataclass
class Result:
    """When every CTA was done, and what happened in it."""

    end: dict[int, float]
    warp_end: dict[tuple[int, int], float]
    spans: list[Span] = field(default_factory=list)
    busy: Counter[tuple[int, str]] = field(default_factory=Counter)
    issued: Counter[tuple[int, int]] = field(default_factory=Counter)  # by CTA and warp
