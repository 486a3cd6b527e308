"""Arrays of the program that a GPU runs: none grows with the square of the length, none is a copy.

The portable path's memory is held by tests/ops/test_portable.py, the kernels' scratch on a GPU by
tests/gpu/test_backward.py.
"""

import math
import re

import jax
import jax.numpy as jnp
import pytest

import jax_fa4
from jax_fa4.ffi import BACKWARD_TARGET, FORWARD_TARGET
from jax_fa4.variants.workspace import Workspace

pytestmark = pytest.mark.usefixtures("hopper")

B, SQ, SK, HQ, HKV, D, DV = 2, 300, 520, 8, 2, 128, 64


def shaped(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def pulled(q, k, v, dout, dlse):
    _, pull = jax.vjp(
        lambda *qkv: jax_fa4.flash_attention(*qkv, causal=True, return_lse=True), q, k, v
    )
    return pull((dout, dlse))


ARGUMENTS = (
    shaped(B, SQ, HQ, D),
    shaped(B, SK, HKV, D),
    shaped(B, SK, HKV, DV),
    shaped(B, SQ, HQ, DV),
    shaped(B, HQ, SQ, dtype=jnp.float32),
)


ARGUMENT_TYPES = {(x.shape, "f32" if x.dtype == jnp.float32 else "bf16") for x in ARGUMENTS}


def arrays(function, *args):
    """Types of all arrays in the program lowered for CUDA, as (dimensions, element type).

    Those of "index" are layouts, lists of axes in the calls' attributes.
    """
    text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(f"@{FORWARD_TARGET}(") == text.count(f"@{BACKWARD_TARGET}(") == 1
    found = re.findall(r"tensor<((?:\d+x)*)([a-z]\w*)>", text)
    types = {(tuple(map(int, sizes.split("x")[:-1])), dtype) for sizes, dtype in found}
    digest = ((8,), "ui32")  # stands for the call in the compilation cache; nothing reads it
    return {x for x in types if x[0] and x[1] != "index"} - {digest}


def test_operands_results_and_scratch_are_all_there_is():
    """In float32 only numbers of rows and dQ's sums; dK and dV in 16 bits, not by query heads."""
    path_names = ("bwd_sm90_bf16_d128", "bwd_sm100_bf16_d128")
    scratch = Workspace.of(path_names, batch=B, heads_q=HQ, seqlen_q=SQ)
    allowed = ARGUMENT_TYPES | {
        (shape, "f32") for shape in (scratch.delta, scratch.lse_log2, scratch.dq_accum)
    }
    allowed |= {(scratch.semaphores, "i32")}
    assert arrays(pulled, *ARGUMENTS) == allowed


def test_nothing_is_quadratic():
    """Twice the lengths, at most twice the elements of every array."""

    def largest(factor):
        q, k, v, dout, dlse = ARGUMENTS
        rows = [shaped(B, factor * SQ, HQ, x.shape[-1]) for x in (q, dout)]
        keys = [shaped(B, factor * SK, HKV, x.shape[-1]) for x in (k, v)]
        dlse = shaped(B, HQ, factor * SQ, dtype=jnp.float32)
        found = arrays(pulled, rows[0], *keys, rows[1], dlse)
        return max(math.prod(shape) for shape, _ in found)

    assert largest(8) <= 8 * largest(1)


def test_the_check_can_fail():
    """A gradient through expanded keys has arrays that the list does not."""

    def expanded(q, k, v, dout, dlse):
        k, v = (jnp.repeat(x, HQ // HKV, axis=2) for x in (k, v))
        return pulled(q, k, v, dout, dlse)

    assert ((B, SK, HQ, D), "bf16") in arrays(expanded, *ARGUMENTS)


def test_the_workspace_is_that_of_the_program():
    """What backward_workspace_bytes promises are the custom call's further results."""
    q, k, v, *_ = ARGUMENTS
    found = arrays(pulled, *ARGUMENTS) - ARGUMENT_TYPES
    sizes = [4 * math.prod(shape) for shape, _ in found]
    rows = next(4 * math.prod(shape) for shape, _ in found if len(shape) == 3 and shape[2] > SQ)
    # delta and lse_log2 have one type.
    assert sum(sizes) + rows == jax_fa4.backward_workspace_bytes(q, k, v, causal=True)
