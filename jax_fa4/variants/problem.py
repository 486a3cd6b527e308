"""Questions to the table of kernels: one attention call, as far as the choices depend on it."""

from __future__ import annotations

from dataclasses import dataclass

from jax_fa4.variants.variant import DType

DTYPES = {
    "bfloat16": DType.BF16,
    "float16": DType.FP16,
    "float8_e4m3fn": DType.E4M3,
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What decides whether a kernel exists for a call, and how wide its tiles are.

    `dtype` is numpy's name of the element type; `head_dim` is of query and key, `head_dim_v` of
    value and output, the same unless said. Lengths, heads and window bounds are
    run-time arguments of every kernel; they only decide between forms (`Call`).
    """

    dtype: str
    head_dim: int
    softmax_scale: float
    has_bias: bool = False
    has_mask: bool = False
    head_dim_v: int = 0
    deterministic: bool = False  # of the gradient: the same bits in every run
    has_bounds: bool = False  # segment ids or sequence lengths: what rows see depends on values
    has_softcap: bool = False
    has_mods: bool = False  # score_mod or mask_mod
    has_dropout: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def is_bounded(self) -> bool:
        """Whether bounded kernels are needed: what only they take is given."""
        return self.has_bounds or self.has_softcap

    @property
    def kernel_dtype(self) -> DType | None:
        """The kernels' word for the element type; None if they have none for it."""
        return DTYPES.get(self.dtype)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one launch has to do, on one device: the lengths that its time depends on.

    Row i of queries sees key j iff band_lower <= j - i <= band_upper.
    """

    batch: int
    heads: int
    heads_kv: int
    seqlen_q: int
    seqlen_k: int
    band_lower: int
    band_upper: int
