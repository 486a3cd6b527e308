"""What a decoding call knows at trace time, and the arrays that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax

from jax_fa4.emulator.settings import Settings
from jax_fa4.ops.band import Band


@dataclass(frozen=True)
class DecodePath:
    """The way a call goes: by kernels, one an architecture, or else for the reason given.

    As in `ops.selection.Path`, the platform that a program is lowered for chooses between kernel
    and portable code; with `emulator` settings the program is for the CPU alone.
    """

    reason: str = ""
    kernels: tuple[str, ...] = ()
    emulator: Settings | None = None


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """Everything about a call that is known at trace time.

    The band counts from a sequence's own diagonal: query i of Sq, at position length - Sq + i,
    attends key j iff `lower <= j - (length - Sq + i) <= upper`. `softcap` 0 is none.
    """

    softmax_scale: float
    band: Band
    path: DecodePath
    softcap: float = 0.0
    num_splits: int | None = None


class Operands(NamedTuple):
    """The arrays of a call.

    q (B, Sq, Hq, D); k (B, S, Hkv, D) and v (B, S, Hkv, Dv), or with a page table
    (pages, page_size, Hkv, ...); lengths (B,) int32; page_table (B, pages of a sequence) int32;
    sinks (Hq,) float32.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    lengths: jax.Array
    page_table: jax.Array | None = None
    sinks: jax.Array | None = None

    @property
    def dims(self) -> tuple[str, ...]:
        """Letters of the arrays that there are, for `ops.layout`: batch and heads may spread."""
        cache = "bskd" if self.page_table is None else "pskd"
        letters = ("bqhd", cache, cache[:3] + "e", "b", "bn", "h")
        return tuple(d for d, a in zip(letters, self, strict=True) if a is not None)

    @property
    def capacity(self) -> int:
        """Keys that the cache of one sequence can hold."""
        return capacity(self.k, self.page_table)


def capacity(k_cache: jax.Array, page_table: jax.Array | None) -> int:
    """Keys that the cache of one sequence can hold."""
    pages = 1 if page_table is None else int(page_table.shape[1])
    return pages * int(k_cache.shape[1])
