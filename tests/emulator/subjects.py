"""Kernels whose mutants are run: this package's own, and launches captured from other people's."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import Emulator, EmulatorError, Run, TensorMap

COMPLETIONS = ("earliest", "latest", "random")


@dataclass(frozen=True)
class Schedule:
    completion: str
    seed: int


@dataclass(frozen=True)
class Subject:
    """A kernel; `launches` take a text and a schedule, give bits and raise EmulatorError."""

    name: str
    ptx: str
    cluster: int  # CTAs
    launches: tuple[Callable[[str, Schedule], bytes], ...]


@dataclass(frozen=True)
class Problem:
    """One CTA that walks all tiles of a banded attention, so that every loop of it runs."""

    rows: int
    keys: int
    lower: int
    upper: int
    heads: int = 1


PROBLEMS = (
    Problem(640, 640, -320, 120),
    Problem(400, 400, -(2**30), 0, heads=2),
    Problem(100, 1500, -(2**30), 1300, heads=2),  # rings of stages go round often
    Problem(400, 400, -60, 60),  # no block is whole
    Problem(150, 100, -(2**30), 2**30, heads=6),  # one epilogue after the other
)


@dataclass(frozen=True)
class Shape:
    """What the host side of a kernel decides: tile sizes, and the CTA's memory."""

    query_rows: int
    keys: int
    threads: int
    shared: int


SHAPES = {
    64: Shape(192, 128, 512, 181248),
    128: Shape(128, 128, 384, 197632),
    256: Shape(128, 80, 384, 230400),
}


def _forward_arguments(head_dim: int, problem: Problem, lse: np.ndarray, arrays: list[np.ndarray]):
    """The kernel's parameters in order, as the host side lays them out; the arrays at the end."""
    shape, rows, keys, heads = SHAPES[head_dim], problem.rows, problem.keys, problem.heads
    row = heads * head_dim * 2
    arguments = [np.uint8(0), np.uint8(0)]
    first_array = 39
    tiles = ((rows, 64), (keys, shape.keys), (keys, shape.keys), (rows, 64))
    for at, (length, box_rows) in enumerate(tiles):
        dims, box = (head_dim, length, heads, 1), (64, box_rows, 1, 1)
        strides = (row, head_dim * 2, row * length)
        arguments.append(TensorMap(first_array + at, "bf16", dims, strides, box, swizzle=3))
        arguments += [np.uint32(0)] * 4
    arguments += [lse, np.uint32(rows), np.uint32(heads), np.uint32(1), np.uint32(0)]
    arguments += [np.uint64(rows), np.uint64(rows * heads)]
    arguments += [np.int32(x) for x in (problem.lower, problem.upper, rows, keys)]
    arguments += [np.int32(x) for x in (-(-rows // shape.query_rows), heads, 1, heads, 1)]
    arguments += [np.float32(head_dim**-0.5 * np.log2(np.e)), *arrays]
    assert arguments[first_array] is arrays[0]
    return arguments


def _forward(run: Emulator, head_dim: int, problem: Problem, number: int):
    def launch(ptx: str, schedule: Schedule) -> bytes:
        random = np.random.default_rng(number)

        def numbers(length):  # the bits of bfloat16 numbers of moderate size
            values = random.standard_normal((length, problem.heads, head_dim)).astype(np.float32)
            return (values.view(np.uint32) >> 16).astype(np.uint16)

        q, k, v = (numbers(length) for length in (problem.rows, problem.keys, problem.keys))
        out = np.full(q.shape, 0xFFFF, np.uint16)
        lse = np.full((problem.heads, problem.rows), np.nan, np.float32)
        arguments = _forward_arguments(head_dim, problem, lse, [q, k, v, out])
        at = len(arguments) - 4
        run(
            ptx,
            *arguments,
            block=(SHAPES[head_dim].threads, 1, 1),
            shared=SHAPES[head_dim].shared,
            read_only=(at, at + 1, at + 2),
            seed=schedule.seed,
            completion=schedule.completion,
            exact=False,
        )
        return out.tobytes() + lse.tobytes()

    return launch


def forward_subject(run: Emulator, path: Path) -> Subject:
    """A forward kernel of this package, by its PTX file."""
    head_dim = int(re.search(r"_d(\d+)$", path.stem)[1])
    launches = (_forward(run, head_dim, problem, i) for i, problem in enumerate(PROBLEMS))
    return Subject(path.stem, path.read_text(), 1, tuple(launches))


def _relocated(parameters: np.ndarray, places: list[tuple[int, int, int]]) -> bytes:
    """The parameters with every address in (old begin, bytes, new begin) moved."""
    words = parameters[: len(parameters) // 8 * 8].view(np.uint64).copy()
    for old, size, new in places:
        inside = (words >= old) & (words < old + size)
        words[inside] += np.uint64(new - old & (2**64 - 1))
    return words.tobytes() + parameters[words.nbytes :].tobytes()


def _captured(run: Emulator, file: Path):
    saved = dict(np.load(file))
    geometry = saved["geometry"].tolist()
    count = len(saved["addresses"])

    def launch(ptx: str, schedule: Schedule) -> bytes:
        memory = []
        for i in range(count):
            raw = np.zeros(saved[f"memory{i}"].size + 256, np.uint8)
            begin = -raw.ctypes.data % 256
            memory.append(raw[begin : begin + saved[f"memory{i}"].size])
            memory[-1][:] = saved[f"memory{i}"].reshape(-1)
        places = [
            (int(old), x.size, x.ctypes.data)
            for old, x in zip(saved["addresses"], memory, strict=True)
        ]
        ranges = [
            number
            for x, writable in zip(memory, saved["writable"], strict=True)
            for number in (x.ctypes.data, x.ctypes.data + x.size, int(writable))
        ]
        text, parameters = ptx.encode(), _relocated(saved["parameters"], places)
        three = ctypes.c_uint32 * 3
        request = Run(
            ptx=text,
            ptx_bytes=len(text),
            grid=three(*geometry[:3]),
            block=three(*geometry[3:6]),
            cluster=three(*geometry[6:9]),
            dynamic_shared_bytes=geometry[9],
            parameters=parameters,
            parameter_bytes=len(parameters),
            ranges=(ctypes.c_uint64 * len(ranges))(*ranges),
            range_count=count,
            seed=schedule.seed,
            completion=COMPLETIONS.index(schedule.completion),
            hardware_level=1,
            exact_tensor_cores=0,
            max_instructions=1 << 20,
        )
        error = run.call(request)
        if error:
            raise EmulatorError(error)
        return b"".join(
            x.tobytes() for x, writable in zip(memory, saved["writable"], strict=True) if writable
        )

    return launch


def captured_subject(run: Emulator, name: str, files: list[Path]) -> Subject:
    """Launches of one kernel, as mutate.py describes them."""
    (ptx,) = {str(np.load(file)["ptx"][0]) for file in files}
    lines = (line for line in ptx.split("\n") if not line.strip().startswith((".loc", ".file")))
    cluster = int(np.load(files[0])["geometry"][6:9].prod())
    return Subject(name, "\n".join(lines), cluster, tuple(_captured(run, file) for file in files))


def schedules() -> Iterator[Schedule]:
    """Orders of events under which a survivor has to give the kernel's own bits."""
    yield from (Schedule(completion, seed) for seed, completion in enumerate(COMPLETIONS, 1))
