"""What the backward's kernels leave for one another: the sizes of their scratch, in one place.

csrc/backward_preprocess.cc refuses any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from jax_fa4.variants.variant import BackwardVariant, parse

_ROWS = 128  # rows of scratch come in whole tiles of every kernel
_SEMAPHORE_ROWS = 64  # of queries, the narrowest tile


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Shapes of the scratch of one backward call, 4 bytes an element.

    delta and lse_log2 are float32, one number a row of queries; dq_accum is the sum of dq in
    float32, as wide as the kernel's tiles; semaphores (int32) order the additions to it.
    """

    delta: tuple[int, int, int]
    lse_log2: tuple[int, int, int]
    dq_accum: tuple[int, int, int, int]
    semaphores: tuple[int, int, int]

    @classmethod
    def of(cls, names: Iterable[str], *, batch: int, heads_q: int, seqlen_q: int) -> Workspace:
        """Enough for any of the backward kernels `names`."""
        widths = [v.head_dim for v in map(parse, names) if isinstance(v, BackwardVariant)]
        return cls.of_width(max(widths), batch=batch, heads_q=heads_q, seqlen_q=seqlen_q)

    @classmethod
    def of_width(cls, width: int, *, batch: int, heads_q: int, seqlen_q: int) -> Workspace:
        """Enough for kernels whose tiles of queries are at most this wide."""
        rows = -(-seqlen_q // _ROWS) * _ROWS
        return cls(
            delta=(batch, heads_q, rows),
            lse_log2=(batch, heads_q, rows),
            dq_accum=(batch, heads_q, rows, width),
            semaphores=(batch, heads_q, rows // _SEMAPHORE_ROWS),
        )

    @property
    def bytes(self) -> int:
        shapes = (self.delta, self.lse_log2, self.dq_accum, self.semaphores)
        return 4 * sum(math.prod(shape) for shape in shapes)
