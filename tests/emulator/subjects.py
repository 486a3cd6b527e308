"""Kernels whose mutants are run: this package's own, and launches captured from other people's."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import subject_arguments as arguments
import subject_decode
from conftest import Emulator, EmulatorError, Run
from host_launches import HostCode

COMPLETIONS = ("earliest", "latest", "random")


@dataclass(frozen=True)
class Schedule:
    completion: str
    seed: int


Launch = Callable[[str, Schedule], object]


@dataclass(frozen=True)
class Subject:
    """A kernel; `launches` take a text and a schedule, give results and raise EmulatorError."""

    name: str
    ptx: str
    cluster: int  # CTAs
    launches: tuple[Launch, ...]


@dataclass(frozen=True, eq=False)
class Sums:
    """Results; the first are float32 sums in any order, of which not all bits need agree."""

    bits: bytes
    count: int

    def __eq__(self, other: object) -> bool:
        if (
            not isinstance(other, Sums)
            or self.bits[4 * self.count :] != other.bits[4 * self.count :]
        ):
            return False
        mine, others = (np.frombuffer(x.bits, np.float32, self.count) for x in (self, other))
        return bool(np.all(np.abs(mine - others) <= 1e-5 * np.abs(others).max()))


def _launches(run: Emulator, host: HostCode) -> Iterator[tuple[dict[str, Any], Launch]]:
    """(what was captured, the launch) of every problem of the kernel."""
    from jax_fa4.variants import BackwardVariant, DecodeVariant, Form, ForwardVariant
    from jax_fa4.variants.catalog import is_deterministic

    variant = host.variant
    if isinstance(variant, DecodeVariant):
        for seed, decoding in enumerate(subject_decode.PROBLEMS):
            values = subject_decode.decode(variant, decoding, seed)
            saved = host.launch(values, subject_decode.WRITTEN)
            yield saved, _captured(run, saved, level="ptx")
        return
    if isinstance(variant, ForwardVariant):
        for seed, problem in enumerate(arguments.FORWARD[variant.arch.value]):
            saved = host.launch(arguments.forward(variant, problem, seed))
            if variant.form is not Form.DYNAMIC:  # there one CTA claims the tiles of others
                saved["geometry"][:3] = saved["geometry"][6:9]  # one cluster, whatever it chose
            yield saved, _captured(run, saved, level="ptx")
        return
    main = isinstance(variant, BackwardVariant)
    for seed, problem in enumerate(arguments.BACKWARD):
        values = (arguments.backward if main else arguments.postprocess)(variant, problem, seed)
        saved = host.launch(values, ("dq_accum", "dk", "dv", "semaphores") if main else ("dq",))
        launch = _captured(run, saved, level="ptx")
        if main and not is_deterministic(variant):
            launch = _summed(launch, values["dq_accum"].size)
        yield saved, launch


def _summed(launch: Launch, count: int) -> Launch:
    return lambda ptx, schedule: Sums(launch(ptx, schedule), count)


def package_subject(run: Emulator, path: Path, cache: Path) -> Subject:
    """A kernel of this package, by its PTX file."""
    host = HostCode.of(path, cache)
    saved, launches = zip(*_launches(run, host), strict=True)
    cluster = int(saved[0]["geometry"][6:9].prod())
    return Subject(path.stem, plain(host.ptx), cluster, launches)


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
