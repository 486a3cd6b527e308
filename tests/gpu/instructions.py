"""Runs recorded launches of the emulator on a real GPU and says where the two differ.

    JAX_FA4_RECORD_LAUNCHES=/tmp/launches pytest -n0 tests/emulator/test_instructions.py ...
    python tests/gpu/instructions.py /tmp/launches --markdown table.md

The text is the one that the emulator ran; the driver compiles it. Kernels run in a process of
their own: one that hangs or faults costs itself only.
"""

from __future__ import annotations

import argparse
import collections
import lzma
import multiprocessing
import pickle
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "emulator")]
import driver  # noqa: E402
import launches as record  # noqa: E402

SECONDS = 20.0  # for one launch, its compilation included
FIRST_SECONDS = 120.0  # for a process to get its context
NEWEST = (9, 0)  # what a driver for CUDA 13.0 compiles
SIZE_BIT = 1 << (64 + 21)  # of a tensor map: "128 KiB or more", which drivers set or do not

# Functions that the manual leaves open, by what a kernel's text has: the error allowed.
# ex2 and rcp are not among them: they are compared with an H100's tables.
APPROXIMATE = {
    "lg2.approx": "2^-22, absolute between 0.5 and 2, relative elsewhere",
    "rsqrt.approx": "2^-22.4 relative",
    "tanh.approx": "2^-11 relative",
}

NOTES = [
    "",
    "`ex2.approx` and `rcp.approx` are compared bit for bit with the tables of an H100. `add.f32`",
    "and `mul.f32`, which a compiler may contract, stand alone in their kernels: there is nothing",
    "to contract them with. Where the manual leaves something open or hardware does other than it",
    "says, [the emulator](../../csrc/emulator/README.md) does what the H100 did here.",
]


@dataclass(frozen=True)
class Result:
    """`verdict` is agree, close, differ, failed or skipped."""

    name: str
    verdict: str
    detail: str = ""
    arrays: dict[int, np.ndarray] | None = None  # what the GPU left, if it differs


def unfit(launch: record.Launch, family: int) -> str | None:
    """Why a GPU of this major compute capability cannot run a launch; None if it can."""
    number, letter = re.fullmatch(r"sm_(\d+)([af]?)", launch.target).groups()
    needed = int(number) // 10
    if needed > family or (letter and needed != family):
        return f"needs {launch.target}"
    if launch.version > NEWEST:
        return f"is PTX {launch.version[0]}.{launch.version[1]}"
    return None


def approximate(text: str) -> str | None:
    return next((name for name in APPROXIMATE if name in text), None)


def close(launch: record.Launch, arrays: dict[int, np.ndarray], name: str) -> bool:
    """Whether two results are both within the manual's error of one value."""
    short = name.partition(".")[0]
    for at, got in arrays.items():
        expected = launch.expected[at]
        a, b = (x.astype(np.float64) for x in (got, expected))
        with np.errstate(invalid="ignore"):
            scale = np.abs(b)
            if short == "lg2":
                scale = np.maximum(scale, 1)
            bound = 2 * {"lg2": 2.0**-22, "rsqrt": 2.0**-22.4, "tanh": 2.0**-11}[short] * scale
            same = (got == expected) | (np.isnan(a) & np.isnan(b))
            if not (same | (np.abs(a - b) <= bound)).all():
                return False
    return True


def compare(launch: record.Launch, arrays: dict[int, np.ndarray]) -> Result:
    """Bit for bit, but for approximate functions."""
    details = []
    for at, expected in launch.expected.items():
        got = arrays[at]
        if got.tobytes() == expected.tobytes():
            continue
        bits = f"u{expected.itemsize}"
        x, y = got.reshape(-1).view(bits), expected.reshape(-1).view(bits)
        where = np.flatnonzero(x != y)
        first = where[0]
        details.append(
            f"argument {at}: {len(where)} of {len(x)} elements, the first at {first}: "
            f"GPU {x[first]:#x}, emulator {y[first]:#x}"
        )
    if not details:
        return Result(launch.name, "agree")
    name = approximate(launch.text)
    if name is not None and close(launch, arrays, name):
        return Result(launch.name, "close", name)
    return Result(launch.name, "differ", "; ".join(details), arrays)


def checked_map(
    cuda: driver.Driver, notes: list[str], described: record.TensorMap, address: int
) -> bytes:
    """The driver's tensor map of the version asked for; a note if the tests encode another."""
    made = bytearray(cuda.tensor_map(described, address))
    made[8] |= described.version
    ours = described.encode(address)
    if (int.from_bytes(made[:64], "little") | SIZE_BIT) != (
        int.from_bytes(ours[:64], "little") | SIZE_BIT
    ):
        notes.append(f"tensor map: driver {made[:64].hex()}, emulator {ours[:64].hex()}")
    return bytes(made)


def run(cuda: driver.Driver, launch: record.Launch) -> Result:
    arrays = {
        at: np.ascontiguousarray(argument).copy()
        for at, argument in enumerate(launch.arguments)
        if isinstance(argument, np.ndarray)
    }
    notes: list[str] = []
    with cuda.module(launch.text) as module:
        function = cuda.function(module, launch.entry)
        with ExitStack() as stack:
            addresses = {at: stack.enter_context(cuda.memory(a)) for at, a in arrays.items()}
            values = record.values(
                launch.arguments,
                addresses,
                lambda described, address: checked_map(cuda, notes, described, address),
            )
            cuda.launch(function, launch, [value for value, _ in values])
    if notes:
        return Result(launch.name, "differ", notes[0], arrays)
    return compare(launch, arrays)


def serve(pipe: Connection) -> None:
    """The process with the context: runs what it is sent until it is sent None."""
    cuda = driver.Driver()
    pipe.send((cuda.description, cuda.family))
    while (launch := pipe.recv()) is not None:
        try:
            result = run(cuda, launch)
        except Exception as error:
            result = Result(launch.name, "failed", str(error))
        pipe.send(result)


class Worker:
    """Runs launches in another process, and starts it anew when one was lost."""

    def __init__(self) -> None:
        self.description = ""
        self.family = 0
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(FIRST_SECONDS):
            self.stop()
            raise RuntimeError("no CUDA context within two minutes")
        try:
            self.description, self.family = self._pipe.recv()
        except EOFError:
            self.stop()
            raise RuntimeError("the driver could not be started; see above") from None

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None

    def __call__(self, launch: record.Launch) -> Result:
        if self._process is None:
            self.start()
        try:
            self._pipe.send(launch)
            if self._pipe.poll(SECONDS):
                result: Result = self._pipe.recv()
            else:
                result = Result(launch.name, "failed", f"did not end within {SECONDS:.0f} s")
        except (EOFError, OSError):
            result = Result(launch.name, "failed", "its process died")
        if result.verdict == "failed":
            self.stop()  # an error of a kernel stays with its context
        return result


def run_all(recorded: list[record.Launch]) -> tuple[str, list[Result]]:
    """What the GPU is, and one result a launch."""
    worker = Worker()
    results = []
    try:
        worker.start()
        for launch in recorded:
            reason = unfit(launch, worker.family)
            if reason is not None:
                results.append(Result(launch.name, "skipped", reason))
                continue
            results.append(worker(launch))
            if results[-1].verdict in ("differ", "failed"):
                print(f"{results[-1].verdict}: {launch.name}: {results[-1].detail}", flush=True)
    finally:
        worker.stop()
    return worker.description, results


def table(description: str, results: list[Result]) -> str:
    """Markdown: verdicts by test, then everything but agreement, one by one."""
    verdicts = ("agree", "close", "differ", "failed", "skipped")
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        counts[result.name.partition("[")[0]][result.verdict] += 1
    lines = [
        f"The emulator against {description or 'no GPU'}: launches by verdict, bit for bit.",
        "",
        "| test | " + " | ".join(verdicts) + " |",
        "| --- |" + " ---: |" * len(verdicts),
    ]
    counts["**all**"] = collections.Counter(result.verdict for result in results)
    for name, count in counts.items():
        lines.append(f"| {name} | " + " | ".join(str(count[v]) for v in verdicts) + " |")
    for verdict in ("differ", "failed"):
        lines += [
            f"* {verdict}: `{result.name}`: {' / '.join(result.detail.splitlines())}"
            for result in results
            if result.verdict == verdict
        ]
    near = collections.Counter(r.detail for r in results if r.verdict == "close")
    lines += [
        f"* close: {count} of `{name}`, allowed: {APPROXIMATE[name]}"
        for name, count in near.items()
    ]
    reasons = collections.Counter(r.detail for r in results if r.verdict == "skipped")
    lines += [f"* skipped: {count} whose target {reason}" for reason, count in reasons.items()]
    lines += NOTES
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("launches", type=Path)
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    parser.add_argument("--dump", type=Path, help="where to write what the GPU left, if it differs")
    options = parser.parse_args()
    description, results = run_all(record.load(options.launches))
    text = table(description, results)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)
    if options.dump:
        with lzma.open(options.dump, "wb", preset=1) as file:
            pickle.dump([r for r in results if r.arrays is not None], file)
    return int(any(result.verdict in ("differ", "failed") for result in results))


if __name__ == "__main__":
    sys.exit(main())
