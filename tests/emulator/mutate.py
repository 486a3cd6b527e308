"""Runs mutants of a forward kernel on the emulator and prints how many of them it catches.

    python tests/emulator/mutate.py build/fwd_sm90_bf16_d128.ptx ...

A mutant is caught if a finding ends one of its runs. Otherwise it survives: because its line is
never reached, or with a wrong result, or as an equivalent of the kernel as far as anybody can see.
"""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import re
import select
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import Emulator, EmulatorError, TensorMap, build
from mutants import marked, mutants, reason

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Problem:
    """One CTA that walks all tiles of a banded attention, so that every loop of it runs."""

    rows: int
    keys: int
    lower: int
    upper: int
    heads: int = 1
    completion: str = "random"
    seed: int = 0


PROBLEMS = (
    Problem(640, 640, -320, 100),
    Problem(400, 400, -(2**30), 0, heads=2, completion="latest", seed=1),
    Problem(400, 400, -(2**30), 0, heads=2, completion="earliest", seed=2),
    Problem(100, 1500, -(2**30), 1300, heads=2, seed=3),  # rings of stages go round often
    Problem(400, 400, -60, 60, seed=5),  # no block is whole
    Problem(150, 100, -(2**30), 2**30, heads=6, seed=4),  # one epilogue after the other
)


@dataclass(frozen=True)
class Shape:
    """What the host side of a kernel decides: tile sizes, and the CTA's memory."""

    query_rows: int
    keys: int
    threads: int
    shared: int


SHAPES = {64: Shape(192, 128, 512, 181248), 128: Shape(128, 128, 384, 197632)}


def _arguments(head_dim: int, problem: Problem, lse: np.ndarray, arrays: list[np.ndarray]):
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


def launch(run: Emulator, ptx: str, head_dim: int, problem: Problem) -> bytes:
    """The bits of out and lse; raises EmulatorError."""
    random = np.random.default_rng(problem.seed)

    def numbers(length):  # the bits of bfloat16 numbers of moderate size
        values = random.standard_normal((length, problem.heads, head_dim)).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16)

    q, k, v = (numbers(length) for length in (problem.rows, problem.keys, problem.keys))
    out = np.full(q.shape, 0xFFFF, np.uint16)
    lse = np.full((problem.heads, problem.rows), np.nan, np.float32)
    arguments = _arguments(head_dim, problem, lse, [q, k, v, out])
    at = len(arguments) - 4
    run(
        ptx,
        *arguments,
        block=(SHAPES[head_dim].threads, 1, 1),
        shared=SHAPES[head_dim].shared,
        read_only=(at, at + 1, at + 2),
        seed=problem.seed,
        completion=problem.completion,
        exact=False,
    )
    return out.tobytes() + lse.tobytes()


def _outcome(run: Emulator, ptx: str, head_dim: int, expected: list[bytes] | None):
    """("finding", text), ("result", "") or ("none", "") of all problems."""
    results = []
    for problem in PROBLEMS:
        try:
            results.append(launch(run, ptx, head_dim, problem))
        except EmulatorError as error:
            return "finding", str(error)
    return ("none" if expected in (None, results) else "result"), results


def in_child(body, seconds: float = TIMEOUT_SECONDS):
    """body() in a child process: it may hang or crash."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(body(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], seconds)
        data = pipe.read() if ready else b""
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return "hang", ""
    return pickle.loads(data) if data else ("crash", f"status {status}")


def score(run: Emulator, path: Path, show: bool) -> None:
    ptx = path.read_text()
    head_dim = int(re.search(r"_d(\d+)$", path.stem)[1])
    began = time.time()
    kind, expected = _outcome(run, ptx, head_dim, None)
    if kind == "finding":
        sys.exit(f"{path.stem} itself is at fault:\n{expected}")
    caught: collections.Counter[str] = collections.Counter()
    survivors = []
    total = 0
    for mutant in mutants(ptx):
        total += 1
        kind, text = in_child(lambda text=mutant.text: _outcome(run, text, head_dim, expected))
        if kind == "finding":
            name = text.split(":")[0]
            caught[name] += 1
            if name == "syntax":
                sys.exit(f"{mutant} does not decode: {text}")
            if show:
                print(f"{mutant}\n    {text.splitlines()[0][:300]}")
            continue
        reached = in_child(lambda at=mutant.line: _outcome(run, marked(ptx, at), head_dim, None))
        survivors.append((mutant, kind if reached[0] == "finding" else "never reached"))
    live = [s for s in survivors if s[1] != "never reached"]
    found = sum(caught.values())
    print(
        f"{path.stem}: {total} mutants, {found} caught, {total - found - len(live)} never reached, "
        f"{len(live)} survive: {found / max(1, found + len(live)):.1%} of those reached "
        f"({time.time() - began:.0f} s)"
    )
    print("  by finding:", ", ".join(f"{name} {count}" for name, count in caught.most_common()))
    for mutant, kind in survivors:
        print(f"  [{kind}] {mutant}\n      {reason(ptx, mutant) or 'UNEXPLAINED'}")
    unexplained = sum(not reason(ptx, mutant) for mutant, _ in live)
    wrong = sum(kind == "result" for _, kind in live)
    print(f"  survivors: {wrong} by a wrong result only, {unexplained} unexplained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ptx", type=Path, nargs="+")
    parser.add_argument("--show", action="store_true", help="print what each mutant was caught by")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "emulator")
    arguments = parser.parse_args()
    run = Emulator(build(arguments.cache, "face.cc", "-shared"))
    for path in arguments.ptx:
        score(run, path, arguments.show)


if __name__ == "__main__":
    main()
