"""The launch arguments are listed in Python for the compiler and in C++ for the caller."""

import re
from pathlib import Path

import pytest

from jax_fa4.aot import signatures
from jax_fa4.aot.arguments import Kind
from jax_fa4.variants import CATALOG

LISTS = Path(__file__).resolve().parents[2] / "csrc" / "kernel_arguments.h"

C_TYPES = {
    Kind.ELEMENTS: "void*",
    Kind.OUTPUTS: "void*",
    Kind.FLOATS: "void*",
    Kind.INTS: "void*",
    Kind.I32: "int32_t",
    Kind.F32: "float",
    Kind.STREAM: "CudaStream",
}


def c_arguments(operation: str) -> list[tuple[str, str]]:
    """(type, name) of each argument in the operation's list in kernel_arguments.h."""
    text = LISTS.read_text()
    (body,) = re.findall(rf"#define JAX_FA4_{operation}_ARGUMENTS\(X\)((?:.*\\\n)*.*\n)", text)
    return re.findall(r"X\(([^,]+), (\w+)\)", body)


@pytest.mark.parametrize(
    "operation",
    [
        "FORWARD",
        "FORWARD_FP8",
        "FORWARD_BOUNDED",
        "BACKWARD_PREPROCESS",
        "BACKWARD",
        "BACKWARD_BOUNDED",
        "BACKWARD_POSTPROCESS",
        "DECODE",
        "DECODE_COMBINE",
    ],
)
def test_both_sides_list_the_same_arguments(operation):
    python = [(C_TYPES[a.kind], a.name) for a in getattr(signatures, operation)]
    assert c_arguments(operation) == python


def test_every_variant_has_a_signature_that_ends_with_the_stream():
    for variant in CATALOG:
        arguments = signatures.signature(variant)
        assert [a.kind for a in arguments].index(Kind.STREAM) == len(arguments) - 1
