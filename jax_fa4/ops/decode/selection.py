"""Which path a decoding call takes, and why: the kernel where it can, else the portable one."""

from __future__ import annotations

import functools

from jax_fa4 import emulator, ffi
from jax_fa4.ops import errors
from jax_fa4.ops.decode.plan import DecodePath, Operands
from jax_fa4.ops.selection import IMPLEMENTATIONS, cuda_devices, device_refusal
from jax_fa4.variants import Arch
from jax_fa4.variants.select_decode import DecodeProblem, combine_of, decode_variants, refusal


def problem_of(x: Operands, softmax_scale: float) -> DecodeProblem:
    """The question to the table of kernels."""
    return DecodeProblem(
        dtype=str(x.q.dtype),
        head_dim=x.q.shape[3],
        head_dim_v=x.v.shape[3],
        softmax_scale=softmax_scale,
        batch=x.q.shape[0],
        heads_kv=x.k.shape[2],
        rows=x.q.shape[1] * (x.q.shape[2] // x.k.shape[2]),
        page_size=0 if x.page_table is None else x.k.shape[1],
    )


def select(x: Operands, softmax_scale: float, implementation: str | None) -> DecodePath:
    """The path of a call; NotImplementedError if what was asked for cannot run it."""
    if implementation not in IMPLEMENTATIONS:
        raise errors.bad_choice("implementation", implementation, IMPLEMENTATIONS)
    if implementation == "xla":
        return DecodePath("implementation='xla' was asked for")
    problem = problem_of(x, softmax_scale)
    if implementation == "emulator":
        return _emulated(problem)
    reason = unsupported(problem)
    devices = cuda_devices()
    if implementation == "fa4":
        if reason is not None:
            raise errors.no_kernel("fa4", reason)
    elif reason is not None and (devices or refusal(problem) is not None):
        return DecodePath(reason)
    if devices:
        ffi.register()
    kernels = decode_variants(problem, ffi.built_variants() if devices else None)
    return DecodePath(kernels=tuple(v.name for v in kernels))


def unsupported(problem: DecodeProblem) -> str | None:
    """Why the kernels cannot run the call on this machine, and the way out; None if they can."""
    kernels = functools.partial(decode_variants, problem)
    return refusal(problem) or device_refusal(problem.words, kernels)


def unsupported_by_emulator(problem: DecodeProblem) -> str | None:
    """Why the emulator cannot run the call, and the way out; None if it can."""
    reason = refusal(problem)
    if reason is not None:
        return reason
    arch = Arch(emulator.current().arch)
    (variant,) = (v for v in decode_variants(problem) if v.arch is arch)
    for name in (variant.name, combine_of(variant).name):
        if name not in ffi.built_variants() or not emulator.has_ptx(name):
            return (
                f"this build of jax_fa4 lacks the kernel {name}; build it with all variants, or "
                "use implementation='xla'"
            )
    return None


def _emulated(problem: DecodeProblem) -> DecodePath:
    reason = unsupported_by_emulator(problem)
    if reason is not None:
        raise errors.no_kernel("emulator", reason)
    settings = emulator.current()
    if settings.special == "h100":
        emulator.load_special_tables()
    ffi.register_emulator()
    arch = Arch(settings.arch)
    names = tuple(v.name for v in decode_variants(problem) if v.arch is arch)
    return DecodePath(kernels=names, emulator=settings)
