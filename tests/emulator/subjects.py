"""Kernels whose mutants are run: this package's own, and launches captured from other people's."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Emulator, EmulatorError, Run
from host_launches import HostCode

UNBOUNDED = 2**30
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
    """A banded attention, of which one cluster walks all tiles, so that every loop of it runs.

    The first key is `growth` times as long as the last, which kernels visit first: rows' maxima
    grow on the way.
    """

    rows: int
    keys: int
    lower: int = -UNBOUNDED
    upper: int = UNBOUNDED
    heads: int = 1
    heads_kv: int = 1
    growth: float = 1.0


PROBLEMS = {
    "sm90": (
        Problem(640, 640, -320, 120),
        Problem(400, 400, upper=0, heads=2, heads_kv=2),
        Problem(100, 1500, upper=1300, heads=2, heads_kv=2),  # rings of stages go round often
        Problem(400, 400, -60, 60),  # no block is whole
        Problem(150, 100, heads=6, heads_kv=6),  # one epilogue after the other
    ),
    "sm100": (
        Problem(640, 640, -320, 120, growth=16),
        Problem(400, 400, upper=0, heads=2, heads_kv=1, growth=4),
        Problem(100, 1500, upper=1300, heads=2, heads_kv=2),
        Problem(400, 400, -60, 60),
        Problem(150, 100, heads=6, heads_kv=2),
    ),
}


def _aligned(values: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 256, as device memory does."""
    raw = np.zeros(values.nbytes + 256, np.uint8)
    begin = -raw.ctypes.data % 256
    copy = raw[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _arguments(variant: Any, problem: Problem, seed: int) -> dict[str, Any]:
    """All arguments of the forward, by name; 16-bit elements by their bits."""
    random = np.random.default_rng(seed)
    width = {"q": variant.head_dim, "k": variant.head_dim}
    width["v"] = width["out"] = getattr(variant, "head_dim_v", variant.head_dim)
    length = {"q": problem.rows, "k": problem.keys, "v": problem.keys, "out": problem.rows}
    values: dict[str, Any] = {}
    for name in ("q", "k", "v"):
        heads = problem.heads if name == "q" else problem.heads_kv
        shape = (length[name], heads, width[name])
        numbers = random.standard_normal(shape).astype(np.float32)
        if name == "k":
            numbers *= np.linspace(problem.growth, 1, problem.keys, dtype=np.float32)[:, None, None]
        half = variant.dtype.value == "fp16"
        bits = numbers.astype(np.float16).view(np.uint16) if half else numbers.view(np.uint32) >> 16
        values[name] = _aligned(bits.astype(np.uint16))
    values["out"] = _aligned(np.full((problem.rows, problem.heads, width["v"]), 0xFFFF, np.uint16))
    values["lse"] = _aligned(np.full((problem.heads, problem.rows), np.nan, np.float32))
    return values | {
        "batch": 1,
        "seqlen_q": problem.rows,
        "seqlen_k": problem.keys,
        "heads_q": problem.heads,
        "heads_kv": problem.heads_kv,
        "head_dim": width["q"],
        "head_dim_v": width["v"],
        "softmax_scale": width["q"] ** -0.5,
        "band_lower": problem.lower,
        "band_upper": problem.upper,
        "sm_count": 2,
    }


def forward_subject(run: Emulator, path: Path, cache: Path) -> Subject:
    """A forward kernel of this package, by its PTX file."""
    from jax_fa4.variants import Form

    host = HostCode.of(path, cache)
    launches = []
    for seed, problem in enumerate(PROBLEMS[host.variant.arch.value]):
        values = _arguments(host.variant, problem, seed)
        saved = host.launch(values)
        if host.variant.form is not Form.DYNAMIC:  # there one CTA claims the tiles of others
            saved["geometry"][:3] = saved["geometry"][6:9]  # one cluster, whatever the host chose
        launches.append(_captured(run, saved, level="ptx"))
    cluster = int(saved["geometry"][6:9].prod())
    return Subject(path.stem, plain(host.ptx), cluster, tuple(launches))


def _relocated(parameters: np.ndarray, places: list[tuple[int, int, int]]) -> bytes:
    """The parameters with every address in (old begin, bytes, new begin) moved."""
    words = parameters[: len(parameters) // 8 * 8].view(np.uint64).copy()
    for old, size, new in places:
        inside = (words >= old) & (words < old + size)
        words[inside] += np.uint64(new - old & (2**64 - 1))
    return words.tobytes() + parameters[words.nbytes :].tobytes()


def _captured(run: Emulator, saved: dict[str, Any], level: str):
    """Of a launch as mutate.py describes one; its arrays are not changed."""
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
            hardware_level=("ptx", "hardware").index(level),
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


def _statements(line: str) -> Iterator[str]:
    """A line of inline assembly, which may be a whole block, as a line a statement."""
    block = re.fullmatch(r"\s*((?:\{\s*)+)(.*;)((?:\s*\})+)\s*", line)
    if not block:
        yield line
        return
    opened, body, closed = block.groups()
    yield from "{" * opened.count("{")
    for statement in body.rstrip(";").split(";"):
        label = re.match(r"\s*(\w+:)(?!:)", statement)
        if label:
            yield label[1]
        yield statement[label.end() if label else 0 :].strip() + ";"
    yield from "}" * closed.count("}")


def plain(ptx: str) -> str:
    """The text with a line a statement, and without what only names lines of its source."""
    lines = ptx.split("\n")
    kept = (x for x in lines if not x.strip().startswith((".loc", ".file")))
    return "\n".join(statement for line in kept for statement in _statements(line))


def captured_subject(run: Emulator, name: str, files: list[Path]) -> Subject:
    """Launches of one kernel, as mutate.py describes them."""
    (ptx,) = {str(np.load(file)["ptx"][0]) for file in files}
    cluster = int(np.load(files[0])["geometry"][6:9].prod())
    launches = (_captured(run, dict(np.load(file)), level="hardware") for file in files)
    return Subject(name, plain(ptx), cluster, tuple(launches))


def schedules() -> Iterator[Schedule]:
    """Orders of events under which a survivor has to give the kernel's own bits."""
    yield from (Schedule(completion, seed) for seed, completion in enumerate(COMPLETIONS, 1))
    # Where all wait for events: an odd seed has the newest first, others any.
    yield from (Schedule("latest", seed) for seed in (4, 5, 6, 8))
