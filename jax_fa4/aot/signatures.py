"""The C ABI of compiled kernels: which arguments each entry point takes, in which order.

csrc/launch.h states the same lists for the caller; tests/aot compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from jax_fa4.variants.variant import (
    BackwardPostprocessVariant,
    BackwardPreprocessVariant,
    BackwardVariant,
    DType,
    ForwardVariant,
    Variant,
)


class Kind(Enum):
    """What an argument is, by its type in C."""

    ELEMENTS = "element pointer"  # void*, to the variant's dtype, aligned to 16 bytes
    OUTPUTS = "output pointer"  # void*, to the type of the variant's output, likewise
    FLOATS = "float pointer"  # void*, to float32, aligned to 16 bytes
    INTS = "int pointer"  # void*, to int32, aligned to 16 bytes
    I32 = "int32_t"
    F32 = "float"
    STREAM = "stream"


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel's entry point."""

    name: str
    kind: Kind


_INPUTS = (
    Argument("q", Kind.ELEMENTS),
    Argument("k", Kind.ELEMENTS),
    Argument("v", Kind.ELEMENTS),
)
_DESCALES = (
    Argument("q_descale", Kind.FLOATS),
    Argument("k_descale", Kind.FLOATS),
    Argument("v_descale", Kind.FLOATS),
)
_FORWARD_REST = (
    Argument("out", Kind.OUTPUTS),
    Argument("lse", Kind.FLOATS),
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_k", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("heads_kv", Kind.I32),
    Argument("head_dim", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("softmax_scale", Kind.F32),
    Argument("band_lower", Kind.I32),
    Argument("band_upper", Kind.I32),
    Argument("sm_count", Kind.I32),
    Argument("stream", Kind.STREAM),
)
FORWARD: tuple[Argument, ...] = (*_INPUTS, *_FORWARD_REST)
FORWARD_FP8: tuple[Argument, ...] = (*_INPUTS, *_DESCALES, *_FORWARD_REST)

# The three kernels of the backward, in the order in which they run. Their scratch (delta, lse_log2,
# dq_accum, semaphores) covers whole tiles: `seqlen_q_padded` rows of each (batch, head), and
# `dq_tile_width` columns of dq, the main kernel's width.
BACKWARD_PREPROCESS: tuple[Argument, ...] = (
    Argument("out", Kind.ELEMENTS),
    Argument("dout", Kind.ELEMENTS),
    Argument("lse", Kind.FLOATS),
    Argument("dlse", Kind.FLOATS),
    Argument("delta", Kind.FLOATS),
    Argument("lse_log2", Kind.FLOATS),
    Argument("dq_accum", Kind.FLOATS),
    Argument("semaphores", Kind.INTS),
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_q_padded", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("dq_tile_width", Kind.I32),
    Argument("stream", Kind.STREAM),
)

BACKWARD: tuple[Argument, ...] = (
    Argument("q", Kind.ELEMENTS),
    Argument("k", Kind.ELEMENTS),
    Argument("v", Kind.ELEMENTS),
    Argument("dout", Kind.ELEMENTS),
    Argument("lse_log2", Kind.FLOATS),
    Argument("delta", Kind.FLOATS),
    Argument("dq_accum", Kind.FLOATS),
    Argument("dk", Kind.ELEMENTS),
    Argument("dv", Kind.ELEMENTS),
    Argument("semaphores", Kind.INTS),
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_k", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("heads_kv", Kind.I32),
    Argument("head_dim", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("softmax_scale", Kind.F32),
    Argument("band_lower", Kind.I32),
    Argument("band_upper", Kind.I32),
    Argument("sm_count", Kind.I32),
    Argument("stream", Kind.STREAM),
)

BACKWARD_POSTPROCESS: tuple[Argument, ...] = (
    Argument("dq_accum", Kind.FLOATS),
    Argument("dq", Kind.ELEMENTS),
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_q_padded", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("head_dim", Kind.I32),
    Argument("dq_tile_width", Kind.I32),
    Argument("softmax_scale", Kind.F32),
    Argument("stream", Kind.STREAM),
)


def signature(variant: Variant) -> tuple[Argument, ...]:
    """The arguments of the variant's entry point."""
    match variant:
        case ForwardVariant(dtype=DType.E4M3):
            return FORWARD_FP8
        case ForwardVariant():
            return FORWARD
        case BackwardPreprocessVariant():
            return BACKWARD_PREPROCESS
        case BackwardVariant():
            return BACKWARD
        case BackwardPostprocessVariant():
            return BACKWARD_POSTPROCESS


def fake_arguments(variant: Variant) -> list[Any]:
    """Arguments of the right types and of no particular value, for `cute.compile`."""
    import cuda.bindings.driver as cuda
    import cutlass
    from cutlass.cute import AddressSpace
    from cutlass.cute.runtime import make_ptr

    elements = {
        DType.BF16: cutlass.BFloat16,
        DType.FP16: cutlass.Float16,
        DType.E4M3: cutlass.Float8E4M3FN,
    }

    def fake(kind: Kind) -> Any:
        match kind:
            case Kind.ELEMENTS | Kind.OUTPUTS:
                dtype = variant.dtype.output if kind is Kind.OUTPUTS else variant.dtype
                return make_ptr(elements[dtype], 0, AddressSpace.gmem, assumed_align=16)
            case Kind.FLOATS:
                return make_ptr(cutlass.Float32, 0, AddressSpace.gmem, assumed_align=16)
            case Kind.INTS:
                return make_ptr(cutlass.Int32, 0, AddressSpace.gmem, assumed_align=16)
            case Kind.I32:
                return cutlass.Int32(1)
            case Kind.F32:
                return cutlass.Float32(1.0)
            case Kind.STREAM:
                return cuda.CUstream(0)

    return [fake(argument.kind) for argument in signature(variant)]
