"""Packed documents: where each begins, and who sees whom."""

from __future__ import annotations

import numpy as np

from tests.fuzz import definition

Arrays = dict[str, np.ndarray]


def arrays(random: np.random.Generator, lengths: tuple[int, int], *, used: bool) -> Arrays:
    """cu_seqlens of 1 to 4 documents, not always from 0 to the end, and used lengths."""
    documents = int(random.integers(1, 5))
    found = {}
    for side, total in zip("qk", lengths, strict=True):
        starts = np.sort(random.integers(0, total + 1, documents + 1))
        if random.random() < 0.7:
            starts[0], starts[-1] = 0, total
        found[f"cu_seqlens_{side}"] = np.sort(starts).astype(np.int32)
        if used:
            found[f"seqused_{side}"] = random.integers(0, total + 1, documents).astype(np.int32)
    return found


def visible(
    x: Arrays, lengths: tuple[int, int], causal: bool, window: tuple[int | None, int | None]
) -> np.ndarray:
    """(T, S): the band within each document, aligned at its last used query and key."""
    seen = np.zeros(lengths, bool)
    for n in range(len(x["cu_seqlens_q"]) - 1):
        parts = []
        for side in "qk":
            begin, end = x[f"cu_seqlens_{side}"][n : n + 2]
            length = end - begin
            if f"seqused_{side}" in x:
                length = min(length, x[f"seqused_{side}"][n])
            parts.append((begin, length))
        (row, rows), (column, columns) = parts
        band = definition.band((rows, columns), causal=causal, window=window, shift=columns - rows)
        seen[row : row + rows, column : column + columns] = band
    return seen
