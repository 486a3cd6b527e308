"""A question to the table of kernels: one attention call, as far as the choice depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from jax_fa4.variants.variant import DType

_DTYPES = {"bfloat16": DType.BF16, "float16": DType.FP16}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What decides whether a kernel exists for a call, and which one.

    `dtype` is numpy's name of the element type; `head_dim` is of query and key, `head_dim_v` of
    value and output, the same unless said. Lengths, heads and window bounds are
    run-time arguments of every kernel and take no part.
    """

    dtype: str
    head_dim: int
    softmax_scale: float
    has_bias: bool = False
    has_mask: bool = False
    head_dim_v: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def kernel_dtype(self) -> DType | None:
        """The kernels' word for the element type; None if they have none for it."""
        return _DTYPES.get(self.dtype)
