"""The cells of the benchmark: which attention problems are timed.

Every cell holds the same number of tokens and the same hidden width, so that rows
compare: batch = tokens / seqlen, heads = hidden / head_dim.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

TOKENS = 16384
HIDDEN = 2048
HEAD_DIMS = (64, 128, 256)
SEQLENS = (512, 2048, 8192, 16384)
MASKS = ("full", "causal")
PASSES = ("fwd", "fwdbwd")

# The forward is two matrix products, the backward five of the same size: 7 / 2.
FORWARD_BACKWARD_FACTOR = 3.5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Self-attention of `tokens` tokens in sequences of `seqlen`, bf16, top-left = bottom-right."""

    head_dim: int
    seqlen: int
    mask: str
    pass_: str
    tokens: int = TOKENS
    hidden: int = HIDDEN

    def __post_init__(self) -> None:
        if self.tokens % self.seqlen:
            raise ValueError(
                f"seqlen={self.seqlen} does not divide tokens={self.tokens}; choose one that does"
            )
        if self.hidden % self.head_dim:
            raise ValueError(
                f"head_dim={self.head_dim} does not divide hidden={self.hidden}; "
                "choose one that does"
            )

    @property
    def name(self) -> str:
        """As `--cells` takes it: d128-s2048-causal-fwd."""
        return f"d{self.head_dim}-s{self.seqlen}-{self.mask}-{self.pass_}"

    @property
    def batch(self) -> int:
        return self.tokens // self.seqlen

    @property
    def heads(self) -> int:
        return self.hidden // self.head_dim

    @property
    def causal(self) -> bool:
        return self.mask == "causal"

    @property
    def backward(self) -> bool:
        return self.pass_ == "fwdbwd"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, S, H, D) of query, key, value and output."""
        return (self.batch, self.seqlen, self.heads, self.head_dim)

    @property
    def flops(self) -> float:
        """4 B H S S D, half of it when causal, times 3.5 with the backward."""
        full = 4.0 * self.batch * self.heads * self.seqlen * self.seqlen * self.head_dim
        return (
            full
            * (0.5 if self.causal else 1.0)
            * (FORWARD_BACKWARD_FACTOR if self.backward else 1.0)
        )


def grid(
    *,
    head_dims: Sequence[int] = HEAD_DIMS,
    seqlens: Sequence[int] = SEQLENS,
    masks: Sequence[str] = MASKS,
    passes: Sequence[str] = PASSES,
    tokens: int = TOKENS,
    hidden: int = HIDDEN,
) -> list[Cell]:
    """The product of the choices, one table's rows after another."""
    return [
        Cell(head_dim=head_dim, seqlen=seqlen, mask=mask, pass_=pass_, tokens=tokens, hidden=hidden)
        for pass_, head_dim, mask, seqlen in itertools.product(passes, head_dims, masks, seqlens)
    ]


def matching(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells named by any of the shell patterns; ValueError if one names none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in cells):
            raise ValueError(
                f"--cells {pattern!r} matches none of the {len(cells)} chosen cells, "
                f"which are named like {cells[0].name!r}"
            )
    return [
        cell
        for cell in cells
        if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)
    ]
