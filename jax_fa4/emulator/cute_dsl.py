"""Kernels that are being written: compiled by CuTe DSL in this process, run on the emulator.

    from jax_fa4.emulator import cute_dsl
    cute_dsl.start("sm_100a")                     # before cutlass is imported

    import cutlass.cute as cute
    from cutlass.cute.runtime import from_dlpack

    x, y = from_dlpack(np.ones(...)), from_dlpack(np.zeros(...))
    add_one = cute_dsl.compile(host_function, x, y)
    with jax_fa4.emulator.options(seed=3, completion="latest"):
        add_one(x, y)                             # raises EmulatorError with what was found

Needs nvidia-cutlass-dsl, which this package does not install; no GPU, no driver. Every argument's
memory is what the kernel may touch; for a bare pointer, name the array: `f(pointer, buffers=[x])`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jax_fa4 import ffi
from jax_fa4.emulator.cute_dsl_recording import recordings_of
from jax_fa4.emulator.host_arrays import HostArray, OnGpu, is_host_array
from jax_fa4.emulator.programs import special_tables
from jax_fa4.emulator.recording import MAX_EVENTS, Recording
from jax_fa4.emulator.settings import COMPLETIONS, Settings, current

_LIBRARY = "libjax_fa4_cute_dsl.so"


class EmulatorError(RuntimeError):
    """What the emulator has to say against a kernel: kind, values, warp, instruction, line."""


class _Request(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("completion", ctypes.c_uint64),
        ("exact_tensor_cores", ctypes.c_uint64),
        ("hardware_level", ctypes.c_uint64),
        ("h100_special", ctypes.c_uint64),
        ("sm_count", ctypes.c_uint64),
        ("compute_capability_major", ctypes.c_uint64),
        ("ranges", ctypes.POINTER(ctypes.c_uint64)),
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("range_count", ctypes.c_uint64),
    )


class _Started:
    """The library, once start() has loaded it, and the major number of the architecture."""

    library: ctypes.CDLL | None = None
    major: int = 0


def start(arch: str = "sm_100a", *, library: str | os.PathLike[str] | None = None) -> None:
    """Make CuTe DSL compile for `arch` and launch on the emulator, for the rest of the process.

    Call it before cutlass is imported. `library` is for working on the emulator itself: a build
    of csrc/cute_dsl other than the installed one. Sets CUTE_DSL_LIBS and, where they are not set,
    CUTE_DSL_DUMP_DIR (a folder that goes with the process) and CUTE_DSL_LINEINFO.
    """
    found = re.fullmatch(r"sm_(\d+)\d[af]?", arch)
    if found is None:
        raise ValueError(f"arch is {arch!r}, expected a name like 'sm_90a' or 'sm_100a'")
    if "cutlass" in sys.modules:
        raise RuntimeError("cutlass is imported already; call start() before the first import")
    path = Path(library) if library is not None else _installed_library()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; install the package with `pip install .`")
    _Started.library = ctypes.CDLL(str(path))
    _Started.library.jax_fa4_end.restype = ctypes.c_char_p
    _Started.major = int(found[1])
    if "CUTE_DSL_DUMP_DIR" not in os.environ:
        os.environ["CUTE_DSL_DUMP_DIR"] = tempfile.mkdtemp(prefix="jax_fa4_cute_dsl_")
        atexit.register(shutil.rmtree, os.environ["CUTE_DSL_DUMP_DIR"], ignore_errors=True)
    kept = {*filter(None, os.environ.get("CUTE_DSL_KEEP", "").split(",")), "ptx", "cubin"}
    os.environ["CUTE_DSL_KEEP"] = ",".join(sorted(kept))
    os.environ["CUTE_DSL_ARCH"] = arch
    os.environ["CUTE_DSL_LIBS"] = str(path)
    os.environ.setdefault("CUTE_DSL_LINEINFO", "1")


def compile(function: Any, *arguments: Any, **keywords: Any) -> Emulated:
    """`cutlass.cute.compile`, for the emulator."""
    import cutlass.cute as cute

    return Emulated(cute.compile(function, *arguments, **keywords))


@contextlib.contextmanager
def record(max_events: int = MAX_EVENTS) -> Iterator[list[Recording]]:
    """`jax_fa4.emulator.record`, for what runs here: the list is filled at the end."""
    library = _library()
    recordings: list[Recording] = []
    library.jax_fa4_start_recording(ctypes.c_uint64(max_events))
    try:
        yield recordings
    finally:
        recordings += recordings_of(library)


def from_dlpack(array: Any, *arguments: Any, **keywords: Any) -> Any:
    """`cutlass.cute.runtime.from_dlpack`, for arrays on the host that pass as arrays on GPU 0.

    Functions compiled with --enable-tvm-ffi take nothing else; others do not mind.
    """
    from cutlass.cute import runtime

    handed_over = OnGpu(HostArray(array))
    tensor = runtime.from_dlpack(handed_over, *arguments, **keywords)
    tensor._jax_fa4_owner = handed_over  # lives as long as the tensor
    return tensor


class Emulated:
    """A compiled function whose kernels run on the emulator, on host memory.

    Call it as the compiled function is called: with tensors of `from_dlpack`, pointers of
    `make_ptr`, numbers, streams (any); functions compiled with --enable-tvm-ffi take NumPy arrays
    and torch tensors as they are. How it runs is what `jax_fa4.emulator.options` says; its `arch`
    chooses among this package's kernels and means nothing here.
    """

    def __init__(self, compiled: Any) -> None:
        ptx, cubin = compiled.__ptx__, compiled.__cubin__
        if ptx is None or cubin is None:
            raise ValueError("the function was compiled before cute_dsl.start(): it kept no PTX")
        text = ptx.encode()
        _library().jax_fa4_register(
            cubin, ctypes.c_uint64(len(cubin)), text, ctypes.c_uint64(len(text))
        )
        self.compiled = compiled
        self.launches = 0  # of the last call
        self.instructions = 0  # that all warps executed in it
        self._takes_arrays = _is_tvm_ffi(compiled)
        if not self._takes_arrays:
            # Otherwise it asks the CUDA runtime.
            compiled.__dict__["num_devices"] = 1

    def __call__(self, *arguments: Any, buffers: Iterable[Any] = (), **keywords: Any) -> Any:
        memory = _Memory(self._takes_arrays)
        given = [memory.take(value, f"argument {at}") for at, value in enumerate(arguments)]
        named = {name: memory.take(value, name) for name, value in keywords.items()}
        for at, buffer in enumerate(buffers):
            memory.add(HostArray(buffer), f"buffer {at}")
        library, request = _library(), memory.request(current())
        library.jax_fa4_begin(ctypes.byref(request))
        raised: Exception | None = None
        result = None
        try:
            result = self.compiled(*given, **named)
        except Exception as error:
            raised = error
        finally:
            counts = (ctypes.c_uint64(), ctypes.c_uint64())
            found = library.jax_fa4_end(*map(ctypes.byref, counts)).decode()
            self.launches, self.instructions = (count.value for count in counts)
        if found:
            raise EmulatorError(found) from raised
        if raised is not None:
            raise raised
        return result


class _Memory:
    """The arguments of one call: what to pass on, and which bytes the kernels may touch."""

    def __init__(self, takes_arrays: bool) -> None:
        self._takes_arrays = takes_arrays
        self._ranges: dict[tuple[int, int], tuple[str, bool]] = {}
        self._alive: list[Any] = []

    def take(self, value: Any, name: str) -> Any:
        """What to pass on in the argument's place."""
        if is_host_array(value):
            if not self._takes_arrays:
                raise TypeError(
                    f"{name} is an array; hand it over as to cute.compile, by from_dlpack, or "
                    "compile with options='--enable-tvm-ffi'"
                )
            return self._on_gpu(value, name)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*self._each(value, name))
        if isinstance(value, (tuple, list)):
            return type(value)(self._each(value, name))
        if isinstance(getattr(value, "data_ptr", None), int):  # a tensor of from_dlpack
            self._range(*_extent(value), name, True)
        return value

    def add(self, array: HostArray, name: str) -> None:
        """Let the kernels touch an array that is no argument."""
        self._range(*array.extent(), name, array.writable)

    def request(self, settings: Settings) -> _Request:
        """How the library is to run; this object must outlive it."""
        if settings.special == "h100":
            _load_special_tables()
        flat = [n for (begin, end), (_, write) in self._ranges.items() for n in (begin, end, write)]
        names = [name.encode() for name, _ in self._ranges.values()]
        ranges = (ctypes.c_uint64 * len(flat))(*flat)
        texts = (ctypes.c_char_p * len(names))(*names)
        self._alive += [ranges, texts]
        return _Request(
            settings.seed,
            COMPLETIONS.index(settings.completion),
            settings.exact,
            settings.level == "hardware",
            settings.special == "h100",
            settings.sm_count,
            _Started.major,
            ranges,
            texts,
            len(names),
        )

    def _each(self, values: Iterable[Any], name: str) -> Iterator[Any]:
        return (self.take(value, f"{name}.{at}") for at, value in enumerate(values))

    def _on_gpu(self, value: Any, name: str) -> Any:
        import tvm_ffi

        array = HostArray(value)
        self.add(array, name)
        handed_over = OnGpu(array)
        self._alive.append(handed_over)
        return tvm_ffi.from_dlpack(handed_over)

    def _range(self, begin: int, end: int, name: str, writable: bool) -> None:
        before = self._ranges.get((begin, end))
        self._ranges[begin, end] = (before[0] if before else name, writable)


def _library() -> ctypes.CDLL:
    if _Started.library is None:
        raise RuntimeError("call jax_fa4.emulator.cute_dsl.start() first")
    return _Started.library


def _installed_library() -> Path:
    return Path(str(ffi.extension().__file__)).parent / "emulator" / _LIBRARY


def _extent(tensor: Any) -> tuple[int, int]:
    """First byte of a tensor of from_dlpack, and the one after the last."""
    steps = [(size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)]
    elements = 0 if 0 in tensor.shape else 1 + sum(steps)
    return tensor.data_ptr, tensor.data_ptr + -(-elements * tensor.element_type.width // 8)


def _is_tvm_ffi(compiled: Any) -> bool:
    return hasattr(compiled, "__tvm_ffi_object__") or hasattr(compiled, "__chandle__")


@functools.cache
def _load_special_tables() -> None:
    _library().jax_fa4_special_tables(*special_tables())
