"""Arguments of the decoding kernel for the problems that its mutants run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from subject_arguments import ELEMENTS, SM_COUNT, UNBOUNDED, aligned, unwritten

HEADS_KV = 1
WRITTEN = ("out", "lse", "out_partial", "lse_partial")


@dataclass(frozen=True)
class Decoding:
    """New tokens of one sequence against a cache in pages; rows = queries x heads."""

    queries: int
    heads: int
    length: int
    page_size: int
    pages: int
    parts: int
    lower: int = -UNBOUNDED
    growth: float = 1.0  # as in `subject_arguments`, of the last key: maxima grow on the way


# A warp alone, two and four that share a ring; rings of stages go round often.
PROBLEMS = (
    Decoding(1, 4, 650, 650, 1, 1, growth=8),
    Decoding(3, 8, 500, 64, 8, 1),
    Decoding(7, 8, 900, 32, 30, 2, lower=-500, growth=4),
    Decoding(16, 4, 250, 256, 1, 1),
)


def decode(variant: Any, problem: Decoding, seed: int) -> dict[str, Any]:
    """All arguments, by name. What no query sees is NaN, and pages lie in another order."""
    random = np.random.default_rng(seed)
    element = ELEMENTS[variant.dtype.value]
    rows = (problem.queries, problem.heads)
    order = random.permutation(problem.pages).astype(np.int32)
    seen = np.arange(problem.pages * problem.page_size) < problem.length
    seen &= np.arange(seen.size) >= problem.length - problem.queries + problem.lower
    values: dict[str, Any] = {
        "q": aligned(random.standard_normal((*rows, variant.head_dim)).astype(element)),
        "page_table": aligned(order[None]),
        "lengths": aligned(np.array([problem.length], np.int32)),
        "sinks": aligned(random.standard_normal(problem.heads).astype(np.float32)),
    }
    for name, width in (("k", variant.head_dim), ("v", variant.head_dim_v)):
        cache = random.standard_normal((seen.size, HEADS_KV, width)).astype(np.float32)
        if name == "k":
            cache *= np.linspace(1, problem.growth, seen.size, dtype=np.float32)[:, None, None]
        cache[~seen] = np.nan
        pages = cache.reshape(problem.pages, problem.page_size, HEADS_KV, width)
        values[name] = aligned(pages[np.argsort(order)].astype(element))
    for name, parts in (("", ()), ("_partial", (problem.parts,))):
        dtype = "float32" if parts else variant.dtype.value
        values[f"out{name}"] = unwritten((*parts, *rows, variant.head_dim_v), dtype)
        values[f"lse{name}"] = unwritten((*parts, *rows), "float32")
    return values | {
        "batch": 1,
        "seqlen_q": problem.queries,
        "heads_q": problem.heads,
        "heads_kv": HEADS_KV,
        "head_dim": variant.head_dim,
        "head_dim_v": variant.head_dim_v,
        "num_pages": problem.pages,
        "page_size": problem.page_size,
        "pages_per_sequence": problem.pages,
        "num_splits": problem.parts,
        "softmax_scale": variant.head_dim**-0.5,
        "softcap": 0.0,
        "band_lower": problem.lower,
        "band_upper": 0,
        "sm_count": SM_COUNT,
    }
