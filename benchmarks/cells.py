"""The cells of the benchmark: which attention problems are timed.

Every cell holds the same number of tokens and the same hidden width, so that rows
compare: batch = tokens / seqlen, heads = hidden / head_dim (that of the values).
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

HeadDims = int | tuple[int, int]  # of queries, keys and values, or of values apart


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Self-attention of `tokens` tokens in sequences of `seqlen`, bf16, top-left = bottom-right."""

    head_dim: int
    seqlen: int
    mask: str
    pass_: str
    tokens: int = TOKENS
    hidden: int = HIDDEN
    head_dim_v: int = 0  # 0: head_dim

    def __post_init__(self) -> None:
        if self.tokens % self.seqlen:
            raise ValueError(
                f"seqlen={self.seqlen} does not divide tokens={self.tokens}; choose one that does"
            )
        if self.head_dim_v == 0:
            object.__setattr__(self, "head_dim_v", self.head_dim)
        if self.hidden % self.head_dim_v:
            raise ValueError(
                f"head_dim={self.head_dim_v} does not divide hidden={self.hidden}; "
                "choose one that does"
            )

    @property
    def name(self) -> str:
        """As `--cells` takes it: d128-s2048-causal-fwd, or d192v128-..."""
        values = f"v{self.head_dim_v}" if self.head_dim_v != self.head_dim else ""
        return f"d{self.head_dim}{values}-s{self.seqlen}-{self.mask}-{self.pass_}"

    @property
    def batch(self) -> int:
        return self.tokens // self.seqlen

    @property
    def heads(self) -> int:
        return self.hidden // self.head_dim_v

    @property
    def causal(self) -> bool:
        return self.mask == "causal"

    @property
    def backward(self) -> bool:
        return self.pass_ == "fwdbwd"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, S, H, D) of query and key."""
        return (self.batch, self.seqlen, self.heads, self.head_dim)

    @property
    def shape_v(self) -> tuple[int, int, int, int]:
        """(B, S, H, D) of value and output."""
        return (self.batch, self.seqlen, self.heads, self.head_dim_v)

    @property
    def flops(self) -> float:
        """2 B H S S for each column of a product, half of it when causal.

        The forward's two have D and Dv columns; the backward adds three of D and two of Dv.
        """
        columns = self.head_dim + self.head_dim_v
        columns += 3 * self.head_dim + 2 * self.head_dim_v if self.backward else 0
        full = 2.0 * self.batch * self.heads * self.seqlen * self.seqlen * columns
        return full * (0.5 if self.causal else 1.0)


def grid(
    *,
    head_dims: Sequence[HeadDims] = HEAD_DIMS,
    seqlens: Sequence[int] = SEQLENS,
    masks: Sequence[str] = MASKS,
    passes: Sequence[str] = PASSES,
    tokens: int = TOKENS,
    hidden: int = HIDDEN,
) -> list[Cell]:
    """The product of the choices, one table's rows after another."""
    pairs = [dims if isinstance(dims, tuple) else (dims, dims) for dims in head_dims]
    return [
        Cell(
            head_dim=head_dim,
            head_dim_v=head_dim_v,
            seqlen=seqlen,
            mask=mask,
            pass_=pass_,
            tokens=tokens,
            hidden=hidden,
        )
        for pass_, (head_dim, head_dim_v), mask, seqlen in itertools.product(
            passes, pairs, masks, seqlens
        )
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
