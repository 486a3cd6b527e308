"""What arguments of entry points are: kinds, by their types in C and in the CuTe DSL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jax_fa4.variants.words import DType


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


def fake_arguments(dtype: DType, arguments: Sequence[Argument]) -> list[Any]:
    """Values of the arguments' types, for a kernel of this dtype: what `cute.compile` takes."""
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
                of = dtype.output if kind is Kind.OUTPUTS else dtype
                return make_ptr(elements[of], 0, AddressSpace.gmem, assumed_align=16)
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

    return [fake(argument.kind) for argument in arguments]
