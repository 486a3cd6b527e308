"""A question to the table of kernels: one attention call, as far as the choice depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from jax_fa4.variants.variant import DType

_DTYPES = {"bfloat16": DType.BF16, "float16": DType.FP16}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What decides whether a kernel exists for a call, and which one.

    `dtype` is numpy's name of the element type. Lengths, heads and window bounds are
    run-time arguments of every kernel and take no part.
    """

    dtype: str
    head_dim: int
    softmax_scale: float
    has_bias: bool = False
    has_mask: bool = False

    @property
    def kernel_dtype(self) -> DType | None:
        """The kernels' word for the element type; None if they have none for it."""
        return _DTYPES.get(self.dtype)
