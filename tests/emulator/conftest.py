"""The engine without the wheel: built from csrc/emulator with g++, called through ctypes."""

import ctypes
import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the models beside this file
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
        ("hardware_level", ctypes.c_uint64),
    )


class EmulatorError(Exception):
    """What the emulator has to say against a kernel."""


@dataclass(frozen=True)
class TensorMap:
    """A tensor map over an argument of the same call, by its place among the arguments.

    `dims` and `box` are in elements, fastest first; `strides` are bytes of dims 1 and up.
    """

    argument: int
    kind: str  # "u8", "f32", "bf16"
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int = 0  # 1: 32 bytes, 2: 64, 3: 128
    offset: int = 0  # bytes from the argument's first

    def encode(self, address):
        """The 128 bytes as a driver writes them; the fields were read off its maps."""
        kinds = {"u8": 0, "u16": 1, "u32": 2, "f16": 6, "f32": 7, "bf16": 10}
        rank = len(self.dims)
        dims, box = [*self.dims, 1, 1, 1, 1][:5], [*self.box, 1, 1, 1, 1][:5]
        strides = [stride >> 4 for stride in [0, *self.strides, 0, 0, 0, 0][:5]]
        words = [0] * 16
        words[0] = address + self.offset
        words[1] = 2 | (rank - 1) << 4 | kinds[self.kind] << 7 | self.swizzle << 13 | 2 << 17
        words[1] |= (strides[1] & 0xFFFFFFFF) << 32
        words[2] = strides[2] & 0xFFFFFFFF | (strides[3] & 0xFFFFFFFF) << 32
        words[3] = strides[4] & 0xFFFFFFFF
        for axis in range(1, 5):
            words[3] |= (strides[axis] >> 32) << (32 + 4 * (axis - 1))
        words[4] = (dims[0] - 1) | (dims[1] - 1) << 32
        words[5] = (dims[2] - 1) | (dims[3] - 1) << 32
        words[6] = (dims[4] - 1) | (box[0] - 1) << 56
        words[7] = (box[1] - 1) | (box[2] - 1) << 8 | (box[3] - 1) << 16 | (box[4] - 1) << 24
        return b"".join(word.to_bytes(8, "little") for word in words)


def _aligned(array):
    """A copy that starts at a multiple of 256, as device memory does."""
    raw = np.zeros(array.nbytes + 256, np.uint8)
    begin = -raw.ctypes.data % 256
    copy = raw[begin : begin + array.nbytes]
    copy[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return copy


def _parameters(arguments, copies):
    """The bytes of a kernel's parameters: pointers for arrays, values for NumPy's scalars."""
    block = b""
    for at, argument in enumerate(arguments):
        if isinstance(argument, TensorMap):
            value, align = argument.encode(copies[argument.argument].ctypes.data), 64
        elif isinstance(argument, np.ndarray):
            value, align = copies[at].ctypes.data.to_bytes(8, "little"), 8
        else:
            value, align = argument.tobytes(), argument.itemsize
        block += b"\0" * (-len(block) % align) + value
    return block


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
        level="ptx",
    ):
        """Runs the kernel; arrays among the arguments are read and written in place.

        Raises EmulatorError with the engine's text if it finds something wrong.
        """
        text = ptx.encode()
        copies = {
            at: _aligned(argument)
            for at, argument in enumerate(arguments)
            if isinstance(argument, np.ndarray)
        }
        ranges = [
            number
            for at, copy in copies.items()
            for number in (
                copy.ctypes.data,
                copy.ctypes.data + copy.nbytes,
                int(at not in read_only),
            )
        ]
        parameters = _parameters(arguments, copies)
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
            ("ptx", "hardware").index(level),
        )
        error = ctypes.create_string_buffer(1 << 16)
        self._library.run_kernel(ctypes.byref(run), error, ctypes.c_uint64(len(error)))
        for at, copy in copies.items():
            arguments[at].reshape(-1).view(np.uint8)[:] = copy
        if error.value:
            raise EmulatorError(error.value.decode())


def _digest(*paths):
    """Of the flags and the files: what an object depends on."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def build(directory, main, *link):
    """Compiles what has changed, two files at a time, and links `main` to the engine."""
    compiler = shutil.which("g++")
    assert compiler is not None, "the package is built with g++, so it is needed here too"
    headers = sorted(SOURCES.rglob("emulator/**/*.h"))
    sources = [*sorted(SOURCES.rglob("emulator/**/*.cc")), HERE / main]
    objects = [directory / f"{_digest(source, *headers)}.o" for source in sources]
    built = directory / f"{main}.{_digest(*sources, *headers)}"
    if built.exists():
        return built
    directory.mkdir(parents=True, exist_ok=True)

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
    subprocess.run([compiler, *link, *map(str, objects), "-o", str(part)], check=True)
    part.rename(built)
    return built


@pytest.fixture(scope="session")
def run_ptx(pytestconfig):
    """`run_ptx(text, *arguments, grid=, block=, ...)` runs a kernel on the emulator."""
    directory = Path(pytestconfig.cache.mkdir("emulator"))
    return Emulator(build(directory, "face.cc", "-shared"))


@pytest.fixture(scope="session")
def fuzzer(pytestconfig):
    """Path of the fuzzer's program."""
    return build(Path(pytestconfig.cache.mkdir("emulator")), "fuzz.cc")


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
