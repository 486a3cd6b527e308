"""The engine without the wheel: built from csrc/emulator with g++, called through ctypes."""

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the models beside this file
from launches import Recorder, TensorMap, pack  # noqa: E402

SOURCES = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", f"-I{SOURCES}"]


class Run(ctypes.Structure):
    _fields_ = (
        ("ptx", ctypes.c_char_p),
        ("ptx_bytes", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("cluster", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint32),
        ("parameters", ctypes.c_char_p),
        ("parameter_bytes", ctypes.c_uint64),
        ("ranges", ctypes.POINTER(ctypes.c_uint64)),
        ("range_count", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("completion", ctypes.c_uint64),
        ("exact_tensor_cores", ctypes.c_uint64),
        ("max_instructions", ctypes.c_uint64),
        ("special_tables", ctypes.c_char_p),
        ("hardware_level", ctypes.c_uint64),
    )


class EmulatorError(Exception):
    """What the emulator has to say against a kernel."""


def _aligned(array):
    """A copy that starts at a multiple of 256, as device memory does."""
    raw = np.zeros(array.nbytes + 256, np.uint8)
    begin = -raw.ctypes.data % 256
    copy = raw[begin : begin + array.nbytes]
    copy[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return copy


def _range(array, writable):
    return array.ctypes.data, array.ctypes.data + array.nbytes, int(writable)


class Emulator:
    def __init__(self, library):
        self._library = ctypes.CDLL(str(library))

    def __call__(
        self,
        ptx,
        *arguments,
        grid=(1, 1, 1),
        block=(32, 1, 1),
        cluster=(1, 1, 1),
        shared=0,
        read_only=(),
        seed=0,
        completion="random",
        exact=True,
        max_instructions=1 << 20,
        special=None,
        level="ptx",
    ):
        """Runs the kernel; arrays among the arguments are read and written in place.

        `special` is None for correctly rounded ex2 and rcp, or the bytes of an H100's tables.
        Raises EmulatorError with the engine's text if it finds something wrong.
        """
        text = ptx.encode()
        copies = {
            at: _aligned(argument)
            for at, argument in enumerate(arguments)
            if isinstance(argument, np.ndarray)
        }
        ranges = [n for at, copy in copies.items() for n in _range(copy, at not in read_only)]
        parameters = pack(arguments, {at: copy.ctypes.data for at, copy in copies.items()})
        three = ctypes.c_uint32 * 3
        run = Run(
            text,
            len(text),
            three(*grid),
            three(*block),
            three(*cluster),
            shared,
            parameters,
            len(parameters),
            (ctypes.c_uint64 * len(ranges))(*ranges),
            len(copies),
            seed,
            ("earliest", "latest", "random").index(completion),
            int(exact),
            max_instructions,
            special,
            ("ptx", "hardware").index(level),
        )
        error = self.call(run)
        for at, copy in copies.items():
            arguments[at].reshape(-1).view(np.uint8)[:] = copy
        if error:
            raise EmulatorError(error)

    def call(self, run):
        """What the engine says against a launch; empty if nothing."""
        error = ctypes.create_string_buffer(1 << 16)
        self._library.run_kernel(ctypes.byref(run), error, ctypes.c_uint64(len(error)))
        return error.value.decode()


def _digest(*paths):
    """Of the flags and the files: what an object depends on."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def build(directory, main, *link, beside=()):
    """Compiles what has changed, two files at a time, and links `main` to the engine.

    `beside` are more sources, and objects. One process at a time: the others wait, and find it
    built.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(directory, main, link, beside)


def _build(directory, main, link, beside):
    compiler = shutil.which("g++")
    assert compiler is not None, "the package is built with g++, so it is needed here too"
    rooms = ("emulator/**/*.h", "runtime/*.h")
    headers = [*(h for room in rooms for h in sorted(SOURCES.rglob(room))), *HERE.glob("*.h")]
    given = [path for path in beside if path.suffix == ".o"]
    more = [path for path in beside if path not in given]
    sources = [*sorted(SOURCES.rglob("emulator/**/*.cc")), HERE / main, *more]
    objects = [directory / f"{_digest(source, *headers)}.o" for source in sources]
    built = directory / f"{main}.{_digest(*sources, *headers, *given)}"
    if built.exists():
        return built

    def compile_one(source, target):
        if not target.exists():
            part = target.with_suffix(".part")
            subprocess.run([compiler, *FLAGS, "-c", str(source), "-o", str(part)], check=True)
            part.rename(target)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    oldest = min(target.stat().st_mtime for target in objects)
    for old in [*directory.glob(f"{main}.*"), *directory.glob("*.o")]:
        if old.suffix != ".o" or old.stat().st_mtime < oldest:
            old.unlink()
    part = built.with_suffix(".part")
    linked = map(str, (*objects, *given))
    subprocess.run([compiler, *link, *linked, "-o", str(part)], check=True)
    part.rename(built)
    return built


@pytest.fixture(scope="session")
def build_directory(pytestconfig, tmp_path_factory):
    """Where programs are built: a folder that stays, unless pytest runs without its cache."""
    cache = getattr(pytestconfig, "cache", None)
    return Path(cache.mkdir("emulator")) if cache else tmp_path_factory.mktemp("emulator")


@pytest.fixture(scope="session")
def run_ptx(build_directory):
    """`run_ptx(text, *arguments, grid=, block=, ...)` runs a kernel on the emulator."""
    emulator = Emulator(build(build_directory, "face.cc", "-shared"))
    # For a real GPU to run the same launches: tests/gpu/instructions.py.
    record = os.environ.get("JAX_FA4_RECORD_LAUNCHES")
    if not record:
        yield emulator
        return
    assert "PYTEST_XDIST_WORKER" not in os.environ, "a record is one process's: pytest -n0"
    recorder = Recorder(emulator)
    yield recorder
    recorder.save(record)


@pytest.fixture(scope="session")
def fuzzer(build_directory):
    """Path of the fuzzer's program."""
    return build(build_directory, "fuzz.cc")


@pytest.fixture(scope="session")
def run_file(run_ptx):
    """`run_file(name, *arguments, ...)` runs tests/emulator/ptx/<name>.ptx."""
    return lambda name, *arguments, **how: run_ptx(
        (HERE / "ptx" / f"{name}.ptx").read_text(), *arguments, **how
    )


@pytest.fixture(scope="session")
def tensor_map():
    return TensorMap


@pytest.fixture(scope="session")
def finding():
    """The exception's type: `with pytest.raises(finding, match="^deadlock"): ...`."""
    return EmulatorError
