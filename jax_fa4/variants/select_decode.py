"""Which decoding kernel serves a call, and into how many parts it cuts the keys."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from jax_fa4.variants.catalog import CATALOG, DECODE_HEAD_DIMS
from jax_fa4.variants.problem import DTYPES
from jax_fa4.variants.variant import (
    HALF_PRECISIONS,
    Arch,
    DecodeCombineVariant,
    DecodeVariant,
    Variant,
)

# NOTES: of an H100 and a B200. The number of parts is a shape, so it is fixed where no device may
# be: for all GPUs of a family alike.
MULTIPROCESSORS = {Arch.SM90: 132, Arch.SM100: 148}
CTAS_OF_MULTIPROCESSOR = 2
KEYS_OF_PART = 256  # the kernel makes no smaller ones (kernels/common/decode/config.py)
ROWS_OF_TILE = 16
ROWS_OF_CTA = 64  # up to four tiles share what they read
MAX_PARTS = 128
PAGE_STEP = 16
_ENOUGH = 0.85  # of the best share of busy multiprocessors
_MAX_CTAS = 65535  # along the grid's second and third axes


@dataclass(frozen=True, kw_only=True)
class DecodeProblem:
    """What decides whether a kernel exists for a call. `page_size` 0 is a contiguous cache."""

    dtype: str
    head_dim: int
    head_dim_v: int
    softmax_scale: float
    batch: int
    heads_kv: int
    rows: int  # new queries x query heads of a KV head
    page_size: int = 0

    @property
    def words(self) -> str:
        """What a kernel would have to take, in the words of users."""
        return f"{self.dtype}, head dims {self.head_dim} (q, k_cache) and {self.head_dim_v} (v)"


def refusal(problem: DecodeProblem) -> str | None:
    """Why no kernel serves the call, and the way out; None if one does."""
    if DTYPES.get(problem.dtype) not in HALF_PRECISIONS:
        return (
            f"q and the caches are {problem.dtype}, and the kernels take bfloat16 and float16; "
            "cast them or use implementation='xla'"
        )
    widest = max(min(pair) for pair in DECODE_HEAD_DIMS)
    for name, width in (("q and k_cache", problem.head_dim), ("v_cache", problem.head_dim_v)):
        if width > widest:
            return (
                f"the head dim of {name} is {width}, above {widest}, the widest decoding kernel; "
                "use implementation='xla'"
            )
        if width % 8:
            return (
                f"the head dim of {name} is {width}, and the kernels read multiples of 8; keep the "
                "cache padded with zeros, or use implementation='xla'"
            )
    if problem.page_size % PAGE_STEP:
        return (
            f"page_size is {problem.page_size}, and the kernels read pages of multiples of "
            f"{PAGE_STEP} rows; use such pages or implementation='xla'"
        )
    if not problem.softmax_scale > 0:
        return (
            f"softmax_scale is {problem.softmax_scale:g}, and the kernels take scale > 0; "
            "use implementation='xla'"
        )
    tiles = -(-problem.rows // ROWS_OF_TILE) * problem.heads_kv
    if problem.batch > _MAX_CTAS or tiles > _MAX_CTAS:
        return (
            f"{problem.batch} sequences and {tiles} tiles of {ROWS_OF_TILE} rows are more than the "
            f"kernels launch, {_MAX_CTAS}; split the batch or use implementation='xla'"
        )
    return None


def decode_variants(
    problem: DecodeProblem, built: Collection[str] | None = None
) -> tuple[DecodeVariant, ...]:
    """The narrowest kernel that holds the head dims, for each architecture.

    `built` restricts the choice to the names that a build contains, with what merges parts.
    """
    if refusal(problem) is not None:
        return ()
    chosen: dict[Arch, DecodeVariant] = {}
    for variant in CATALOG:
        if _serves(variant, problem) and isinstance(variant, DecodeVariant):
            needed = {variant.name, combine_of(variant).name}
            best = chosen.get(variant.arch)
            if (built is None or needed <= set(built)) and (
                best is None
                or variant.head_dim + variant.head_dim_v < best.head_dim + best.head_dim_v
            ):
                chosen[variant.arch] = variant
    return tuple(chosen.values())


def combine_of(variant: Variant) -> DecodeCombineVariant:
    """What merges the parts of a kernel."""
    return DecodeCombineVariant(arch=variant.arch, dtype=variant.dtype)


def num_splits(
    *, sequences: int, heads_kv: int, rows: int, capacity: int, archs: tuple[Arch, ...]
) -> int:
    """Parts of a sequence's keys: the fewest that keep nearly all multiprocessors busy.

    By shapes alone: lengths are the device's. Parts that a short sequence does not fill stay empty.
    """
    slots = [CTAS_OF_MULTIPROCESSOR * MULTIPROCESSORS[arch] for arch in archs]
    units = sequences * heads_kv * -(-rows // ROWS_OF_CTA)
    most = max(1, min(MAX_PARTS, -(-capacity // KEYS_OF_PART), max(slots)))

    def busy(parts: int) -> float:
        """The share of time that CTAs of equal length fill, in whole waves, where it is least."""
        return min(units * parts / n / -(-units * parts // n) for n in slots)

    best = max(map(busy, range(1, most + 1)))
    return next(n for n in range(1, most + 1) if busy(n) >= _ENOUGH * best)


def _serves(variant: Variant, problem: DecodeProblem) -> bool:
    return (
        isinstance(variant, DecodeVariant)
        and variant.dtype is DTYPES[problem.dtype]
        and problem.head_dim <= variant.head_dim
        and problem.head_dim_v <= variant.head_dim_v
    )
