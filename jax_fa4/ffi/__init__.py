"""The Python side of the boundary: target names, registration, one function per target.

Nothing is loaded until a kernel is first needed, so that `import jax_fa4` works on a
machine without a GPU, a driver or (for work on the Python half) the extension.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import jax

# Custom call targets are a serialized interface (jax.export): their names carry a version. It
# changes when a call that was right would be refused or mean something else, not when more calls
# are taken: v1 learnt values of another head dim than the keys'.
FORWARD_TARGET = "jax_fa4_fwd_v1"
FORWARD_FP8_TARGET = "jax_fa4_fwd_fp8_v1"
FORWARD_BOUNDED_TARGET = "jax_fa4_fwd_bounded_v1"
BACKWARD_TARGET = "jax_fa4_bwd_v1"
BACKWARD_BOUNDED_TARGET = "jax_fa4_bwd_bounded_v1"
BACKWARD_PREPROCESS_TARGET = "jax_fa4_bwd_preprocess_v1"
DECODE_TARGET = "jax_fa4_decode_v1"
EMULATED_FORWARD_TARGET = "jax_fa4_emulated_fwd_v1"
EMULATED_FORWARD_FP8_TARGET = "jax_fa4_emulated_fwd_fp8_v1"
EMULATED_FORWARD_BOUNDED_TARGET = "jax_fa4_emulated_fwd_bounded_v1"
EMULATED_BACKWARD_TARGET = "jax_fa4_emulated_bwd_v1"
EMULATED_BACKWARD_BOUNDED_TARGET = "jax_fa4_emulated_bwd_bounded_v1"
EMULATED_BACKWARD_PREPROCESS_TARGET = "jax_fa4_emulated_bwd_preprocess_v1"
EMULATED_DECODE_TARGET = "jax_fa4_emulated_decode_v1"
TARGETS = (
    FORWARD_TARGET,
    FORWARD_FP8_TARGET,
    FORWARD_BOUNDED_TARGET,
    BACKWARD_TARGET,
    BACKWARD_BOUNDED_TARGET,
    BACKWARD_PREPROCESS_TARGET,
    DECODE_TARGET,
    EMULATED_FORWARD_TARGET,
    EMULATED_FORWARD_FP8_TARGET,
    EMULATED_FORWARD_BOUNDED_TARGET,
    EMULATED_BACKWARD_TARGET,
    EMULATED_BACKWARD_BOUNDED_TARGET,
    EMULATED_BACKWARD_PREPROCESS_TARGET,
    EMULATED_DECODE_TARGET,
)


@functools.cache
def extension() -> ModuleType:
    """The compiled half of the package; ImportError with the remedy if it is missing."""
    try:
        return importlib.import_module("jax_fa4._ext")
    except ImportError as error:
        raise ImportError(
            f"jax_fa4 was imported without its compiled extension jax_fa4._ext ({error}); "
            "install the package with `pip install .` and run outside its source tree, "
            "or pass implementation='xla', which needs no extension"
        ) from error


def extension_problem() -> str | None:
    """Why the extension cannot be loaded; None if it can."""
    try:
        extension()
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def register() -> None:
    """Tell XLA about the kernels' targets, once per process."""
    for target, stages in extension().registrations().items():
        jax.ffi.register_ffi_target(target, stages, platform="CUDA")


@functools.cache
def register_emulator() -> None:
    """Tell XLA about the emulator's targets, once per process."""
    for target, stages in extension().emulator_registrations().items():
        jax.ffi.register_ffi_target(target, stages, platform="cpu")


@functools.cache
def built_variants() -> frozenset[str]:
    """Names of the kernels in this build."""
    return frozenset(extension().variant_names())
