"""Which path a call takes, and why: the kernel where it can, else the portable one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax

from jax_fa4 import emulator, ffi
from jax_fa4.ffi.driver import driver_cuda_version
from jax_fa4.ops import errors, kernel_warning
from jax_fa4.ops.band import Band
from jax_fa4.variants import (
    CATALOG,
    Arch,
    BackwardVariant,
    DecodeVariant,
    DType,
    ForwardVariant,
    parse,
)
from jax_fa4.variants.problem import Call, Problem
from jax_fa4.variants.select import (
    arrays,
    backward_for_call,
    backward_variants,
    for_call,
    forward_variants,
    helpers,
    refusal,
)

_Kernel = TypeVar("_Kernel", ForwardVariant, DecodeVariant)

Implementation = Literal["fa4", "xla", "emulator"] | None
IMPLEMENTATIONS = (None, "fa4", "xla", "emulator")


@dataclass(frozen=True)
class Path:
    """The way a call goes. Kernel names are empty on the portable path; `reason` says why it is.

    `forward` names the forward kernels in all forms that serve the call; `forward_for` chooses.
    `backward` and `backward_for`: the same of the gradient's main kernels; without any the
    gradient is portable, and `backward_reason` says why.
    On the kernel path the choice between kernel and portable code is left to the platform
    that the program is lowered for, so that one program serves both. With `emulator` settings
    the kernels run on the emulator, and the program is for the CPU alone.
    """

    forward: tuple[str, ...] = ()
    backward: tuple[str, ...] = ()
    reason: str | None = None
    backward_reason: str | None = None
    emulator: emulator.Settings | None = None

    @property
    def is_kernel(self) -> bool:
        return bool(self.forward)

    def forward_for(
        self, query: tuple[int, ...], key: tuple[int, ...], band: Band
    ) -> tuple[str, ...]:
        """For arrays of these shapes, as a device holds them: one kernel for each architecture."""
        names = for_call(self.forward, _call(query, key, band))
        if self.emulator is not None:
            for name in names:
                emulator.load(name)
        return names

    def backward_for(
        self, query: tuple[int, ...], key: tuple[int, ...], band: Band
    ) -> tuple[str, ...]:
        """The gradient's main kernels likewise, loaded with their helpers where emulated."""
        names = backward_for_call(self.backward, _call(query, key, band))
        if self.emulator is not None:
            for name in names:
                for needed in (name, *_helpers(name)):
                    emulator.load(needed)
        return names


def select(problem: Problem, implementation: str | None) -> Path:
    """The path of a call; NotImplementedError if what was asked for cannot run it."""
    if implementation not in IMPLEMENTATIONS:
        raise errors.bad_choice("implementation", implementation, IMPLEMENTATIONS)
    if implementation == "xla":
        return Path(reason="implementation='xla' was asked for")
    if implementation == "emulator":
        return _emulated(problem)
    reason = unsupported(problem)
    devices = cuda_devices()
    if implementation == "fa4":
        if reason is not None:
            raise errors.no_kernel("fa4", reason)
    elif reason is not None and (devices or refusal(problem) is not None):
        plain = kernel_warning.without(problem)
        if problem != plain and unsupported(plain) is None:
            kernel_warning.warn(problem)
        return Path(reason=reason)
    if devices:
        ffi.register()
    built = ffi.built_variants() if devices else None
    forward = forward_variants(problem, built)
    backward = backward_variants(problem, built)
    # A program for GPUs that are not here must run on every kind that the forward runs on.
    majors = {_major(d) for d in devices} or {v.arch.compute_capability_major for v in forward}
    unserved = majors - {v.arch.compute_capability_major for v in backward}
    return Path(
        forward=tuple(v.name for v in forward),
        backward=() if unserved else tuple(v.name for v in backward),
        backward_reason=_no_backward(problem, sorted(map(str, unserved))) if unserved else None,
    )


def unsupported(problem: Problem) -> str | None:
    """Why the kernels cannot run `problem` on this machine, and the way out; None if they can."""
    kernels = functools.partial(forward_variants, problem)
    return refusal(problem) or device_refusal(arrays(problem), kernels)


def unsupported_by_emulator(problem: Problem) -> str | None:
    """Why the emulator cannot run `problem`, and the way out; None if it can."""
    reason = refusal(problem)
    if reason is not None:
        return reason
    arch = Arch(emulator.current().arch)
    needed = [v.name for v in forward_variants(problem) if v.arch is arch]
    if not needed:
        return (
            f"no kernel for {arch.value} takes {arrays(problem)}; use another arch of "
            "jax_fa4.emulator.options, or implementation='xla'"
        )
    for name in needed:
        if name not in ffi.built_variants() or not emulator.has_ptx(name):
            return (
                f"this build of jax_fa4 lacks the kernel {name}; build it with all variants, or "
                "use implementation='xla'"
            )
    return None


def _emulated(problem: Problem) -> Path:
    """The path of a call with implementation="emulator", whose kernels it hands over."""
    reason = unsupported_by_emulator(problem)
    if reason is not None:
        raise errors.no_kernel("emulator", reason)
    built = frozenset(name for name in ffi.built_variants() if emulator.has_ptx(name))
    kernels = (forward_variants(problem, built), backward_variants(problem, built))
    arch = Arch(emulator.current().arch)
    forward, backward = (tuple(v.name for v in variants if v.arch is arch) for variants in kernels)
    major = str(arch.compute_capability_major)
    if emulator.current().special == "h100":
        emulator.load_special_tables()
    ffi.register_emulator()
    return Path(
        forward=forward,
        backward=backward,
        backward_reason=None if backward else _no_backward(problem, [major]),
        emulator=emulator.current(),
    )


def _no_backward(problem: Problem, majors: list[str]) -> str | None:
    """Why the portable path computes a gradient, on devices of these compute capabilities.

    None where nothing does.
    """
    if problem.kernel_dtype is DType.E4M3:
        return None
    kind = "deterministic backward" if problem.deterministic else "backward"
    return (
        f"no {kind} kernel for compute capability {', '.join(f'{m}.x' for m in majors)} takes "
        f"{arrays(problem)} in this build"
    )


def _call(query: tuple[int, ...], key: tuple[int, ...], band: Band) -> Call:
    """The question that forms are chosen by, of a query (B, Sq, Hq, D) and key (B, Sk, Hkv, D)."""
    return Call(
        batch=query[0],
        heads=query[2],
        heads_kv=key[2],
        seqlen_q=query[1],
        seqlen_k=key[1],
        band_lower=band.lower,
        band_upper=band.upper,
    )


def _helpers(name: str) -> tuple[str, ...]:
    variant = parse(name)
    assert isinstance(variant, BackwardVariant)
    return helpers(variant)


def cuda_devices() -> tuple[jax.Device, ...]:
    """The CUDA devices that JAX sees in this process."""
    try:
        return tuple(jax.local_devices(backend="cuda"))
    except RuntimeError:  # JAX knows no such platform here
        return ()


def kernel_for(device: jax.Device, names: tuple[str, ...]) -> str:
    """The one of `Path.forward_for`'s or `backward_for`'s kernels that a device runs."""
    (name,) = (n for n in names if parse(n).arch.compute_capability_major == _major(device))
    return name


def describe(device: jax.Device) -> str:
    """A device by its name and compute capability."""
    return f"{device.device_kind} (compute capability {_capability(device)})"


def device_refusal(
    what: str, kernels: Callable[[Collection[str] | None], tuple[_Kernel, ...]]
) -> str | None:
    """Why no device of this machine runs kernels that take `what`; None if all of them do.

    `kernels(names)` are those that serve the call, one an architecture: of the catalog, for None,
    or of the names given.
    """
    devices = cuda_devices()
    if not devices:
        return no_device()
    all_kernels = kernels(None)
    for device in devices:
        served = {v.arch.compute_capability_major for v in all_kernels}
        if _major(device) not in served:
            capabilities = ", ".join(f"{major}.x" for major in sorted(served))
            return (
                f"device {device.id} is {describe(device)}, and the kernels that take "
                f"{what} are for compute capability {capabilities}; use "
                "implementation='xla', or hide the device with CUDA_VISIBLE_DEVICES"
            )
    version = driver_cuda_version()
    for device in devices:
        needed = next(v.arch.cuda_major for v in all_kernels if _serves(v, device))
        if version is not None and version < (needed, 0):
            return (
                f"the NVIDIA driver knows CUDA {version[0]}.{version[1]}, and the kernels for "
                f"{describe(device)} need CUDA {needed}; update the driver, or use "
                "implementation='xla'"
            )
    built = kernels(ffi.built_variants())
    for device in devices:
        if _major(device) not in {v.arch.compute_capability_major for v in built}:
            names = ", ".join(v.name for v in all_kernels)
            return f"this build of jax_fa4 lacks the kernel {names}; build it with all variants"
    return None


def no_device() -> str:
    """Why kernels do not run where there is no CUDA device."""
    return (
        f"JAX sees no CUDA device, its default backend is {jax.default_backend()}; "
        "install jax[cuda13] on a machine with an NVIDIA GPU, or use implementation='xla'"
    )


def supported_capabilities() -> tuple[int, ...]:
    """Major compute capabilities that have a forward kernel."""
    forward = (v for v in CATALOG if isinstance(v, ForwardVariant))
    return tuple(sorted({v.arch.compute_capability_major for v in forward}))


def _capability(device: jax.Device) -> str:
    return str(getattr(device, "compute_capability", "unknown"))


def _serves(variant: ForwardVariant | DecodeVariant, device: jax.Device) -> bool:
    return variant.arch.compute_capability_major == _major(device)


def _major(device: jax.Device) -> int | None:
    major = _capability(device).split(".")[0]
    return int(major) if major.isdigit() else None
