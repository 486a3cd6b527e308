"""Launches of kernels: how arguments are packed, and a record of launches for a real GPU to repeat.

A record has every launch of the tests that the emulator ran to its end: the text, the geometry,
the arguments before, and the arrays after.
"""

import hashlib
import lzma
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TABLES = Path(__file__).parents[2] / "jax_fa4" / "emulator" / "special"


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
    steps: tuple[int, ...] = ()  # element strides; the first is ignored
    fill_nan: bool = False  # outside the tensor
    version: int = 0  # the driver for CUDA 13.0 writes 0, CuTe DSL 2

    def encode(self, address):
        """The 128 bytes as a driver writes them; the fields were read off its maps."""
        kinds = {"u8": 0, "u16": 1, "u32": 2, "f16": 6, "f32": 7, "bf16": 10}
        rank = len(self.dims)
        dims, box = [*self.dims, 1, 1, 1, 1][:5], [*self.box, 1, 1, 1, 1][:5]
        strides = [stride >> 4 for stride in [0, *self.strides, 0, 0, 0, 0][:5]]
        words = [0] * 16
        words[0] = address + self.offset
        words[1] = (
            self.version | (rank - 1) << 4 | kinds[self.kind] << 7 | self.swizzle << 13 | 2 << 17
        )
        words[1] |= int(self.fill_nan) << 15
        words[1] |= (strides[1] & 0xFFFFFFFF) << 32
        words[2] = strides[2] & 0xFFFFFFFF | (strides[3] & 0xFFFFFFFF) << 32
        words[3] = strides[4] & 0xFFFFFFFF
        for axis in range(1, 5):
            words[3] |= (strides[axis] >> 32) << (32 + 4 * (axis - 1))
        words[4] = (dims[0] - 1) | (dims[1] - 1) << 32
        words[5] = (dims[2] - 1) | (dims[3] - 1) << 32
        words[6] = (dims[4] - 1) | (box[0] - 1) << 56
        for axis, step in enumerate(self.steps):
            words[6] |= (step - 1) << (32 + 3 * axis)
        words[7] = (box[1] - 1) | (box[2] - 1) << 8 | (box[3] - 1) << 16 | (box[4] - 1) << 24
        return b"".join(word.to_bytes(8, "little") for word in words)


def values(arguments, addresses, encode=TensorMap.encode):
    """(bytes, alignment) of each of a kernel's parameters: addresses for arrays, NumPy's scalars.

    `addresses` has the place of an array among the arguments -> where it is in memory;
    `encode(map, address)` makes the 128 bytes of a tensor map.
    """
    for at, argument in enumerate(arguments):
        if isinstance(argument, TensorMap):
            yield encode(argument, addresses[argument.argument]), 64
        elif isinstance(argument, np.ndarray):
            yield addresses[at].to_bytes(8, "little"), 8
        else:
            yield argument.tobytes(), argument.itemsize


def pack(arguments, addresses):
    """The bytes of all parameters, one behind the other."""
    block = b""
    for value, align in values(arguments, addresses):
        block += b"\0" * (-len(block) % align) + value
    return block


@dataclass(frozen=True)
class Launch:
    """`expected` has what the emulator left in each array, by its place among the arguments."""

    name: str
    text: str
    arguments: tuple
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (32, 1, 1)
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared: int = 0
    expected: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def entry(self):
        return re.search(r"\.entry\s+([\w$]+)", self.text)[1]

    @property
    def target(self):
        return re.search(r"^\s*\.target\s+(\w+)", self.text, re.MULTILINE)[1]

    @property
    def version(self):
        return tuple(map(int, re.search(r"\.version\s+(\d+)\.(\d+)", self.text).groups()))

    def key(self):
        digest = hashlib.sha256(self.text.encode())
        digest.update(repr((self.grid, self.block, self.cluster, self.shared)).encode())
        for argument in self.arguments:
            digest.update(repr((type(argument), getattr(argument, "shape", argument))).encode())
            if not isinstance(argument, TensorMap):
                digest.update(argument.tobytes())
        return digest.digest()


def h100_tables():
    """How an H100 rounds ex2 and rcp, as `special=` takes it."""
    names = ("ex2_positive", "ex2_negative", "rcp")
    return b"".join(lzma.decompress((TABLES / f"{name}.i8.xz").read_bytes()) for name in names)


class Recorder:
    """An emulator that remembers its launches; the same launch under another schedule is one."""

    def __init__(self, emulator):
        self._emulator = emulator
        self._launches = {}
        self._tables = None

    def __call__(self, text, *arguments, **how):
        before = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)
        self._emulator(text, *arguments, **how)
        name = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" (")[0]
        shape = {name: how[name] for name in ("grid", "block", "cluster", "shared") if name in how}
        launch = Launch(name.rpartition("/")[2], text, before, **shape)
        key = launch.key()
        if key in self._launches or not how.get("exact", True):
            return
        after = arguments
        if re.search(r"\b(ex2|rcp)\.approx", text):
            after = [a.copy() if isinstance(a, np.ndarray) else a for a in before]
            self._tables = self._tables or h100_tables()
            self._emulator(text, *after, **{**how, "special": self._tables})
        expected = {at: a.copy() for at, a in enumerate(after) if isinstance(a, np.ndarray)}
        self._launches[key] = Launch(launch.name, text, before, **shape, expected=expected)

    def save(self, path):
        with lzma.open(path, "wb", preset=1) as file:
            pickle.dump(list(self._launches.values()), file)


def load(path):
    """The launches of a record that this checkout wrote."""
    with lzma.open(path, "rb") as file:
        return pickle.load(file)
