"""The band: one mask for full, causal and sliding-window attention.

Query row i attends key j iff `lower <= j - i <= upper`, both counted from 0. Causal
masks, windows and either alignment of unequal lengths differ in these two numbers
alone, so every path takes just the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Alignment = Literal["top_left", "bottom_right"]
Window = tuple[int | None, int | None]

# An infinite side of the band. Lengths stay below it, so int32 holds every sum.
UNBOUNDED = 2**30


@dataclass(frozen=True)
class Band:
    """Keys that a query row sees: those with `lower <= j - i <= upper`."""

    lower: int = -UNBOUNDED
    upper: int = UNBOUNDED

    @classmethod
    def make(
        cls,
        query_length: int,
        key_length: int,
        *,
        causal: bool = False,
        window: Window = (None, None),
        alignment: Alignment = "top_left",
    ) -> Band:
        """The band of a causal mask and a window of (left, right) keys, None for no bound.

        Alignment says where the diagonal starts when the lengths differ: at the first
        query and key ("top_left", jax.nn) or at the last ("bottom_right", FlashAttention).
        """
        shift = key_length - query_length if alignment == "bottom_right" else 0
        left, right = window
        lower = -UNBOUNDED if left is None else shift - left
        upper = UNBOUNDED if right is None else shift + right
        if causal:
            upper = min(upper, shift)
        return cls(_clamp(lower), _clamp(upper))

    def cuts_left(self, query_length: int) -> bool:
        """Whether the lower side hides a key from some row."""
        return self.lower > -(query_length - 1)

    def cuts_right(self, key_length: int) -> bool:
        """Whether the upper side hides a key from some row."""
        return self.upper < key_length - 1


# Every query sees every key.
FULL = Band()


def _clamp(bound: int) -> int:
    return max(-UNBOUNDED, min(UNBOUNDED, bound))
