"""Which path a decoding call takes, and why."""

from __future__ import annotations

from jax_fa4.ops import errors
from jax_fa4.ops.decode.plan import DecodePath, Operands
from jax_fa4.ops.selection import IMPLEMENTATIONS


def select(x: Operands, implementation: str | None) -> DecodePath:
    """The path of a call; NotImplementedError if what was asked for cannot run it."""
    if implementation not in IMPLEMENTATIONS:
        raise errors.bad_choice("implementation", implementation, IMPLEMENTATIONS)
    if implementation == "xla":
        return DecodePath("implementation='xla' was asked for")
    reason = unsupported(x)
    if implementation is not None:
        raise errors.no_kernel(implementation, reason)
    return DecodePath(reason)


def unsupported(x: Operands) -> str:
    """Why the kernels cannot run the call, and the way out."""
    del x
    return "this build has no kernel for decode_attention; use implementation='xla'"
