"""Measure what a Hopper multiprocessor's units do in a cycle, on one H100.

    python -m benchmarks.hopper.units --json units.json [--ptxas PTXAS]

Needs the driver alone (no JAX). Its compiler takes minutes; with a ptxas and all cores it is half
of one. Cycles are the multiprocessor's own (%clock64), so that power limits do not matter.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import shutil
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.hopper.units import programs
from benchmarks.hopper.units.driver import Gpu
from benchmarks.hopper.units.ptx import MIXES, OPERATIONS

_SHARED = 200 * 1024
_COUNT = 256  # operations a round
_PRODUCTS = 16  # in a group
_NAMES = (*OPERATIONS, *(" + ".join(mix) for mix in MIXES), programs.SOFTMAX)
_SHAPES = ((64, True), (64, False), (128, True), (128, False), (256, True), (80, False))
_COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Part:
    """A name of results, the kernels that it needs, and how they are run."""

    name: str
    ptx: tuple[str, ...]
    run: Callable[[Gpu], Any]


def _shape(columns: int, registers: bool) -> str:
    return f"n{columns} {'RS' if registers else 'SS'}"


def _rates() -> Iterator[Part]:
    """Cycles an operation of a sub-partition (of a softmax), by warps on it."""
    for name in _NAMES:
        ptx = programs.rate(name, _COUNT)

        def run(gpu: Gpu, name: str, ptx: str) -> dict[int, float]:
            done = 1 if name == programs.SOFTMAX else _COUNT
            found = {}
            for warps in (1, 2, 3):
                rounds = 64
                taken = gpu.run(ptx, (rounds, 0), threads=128 * warps)
                found[warps] = round(max(taken[: 4 * warps]) / rounds / done / warps, 3)
            return found

        yield Part(f"rate {name}", (ptx,), partial(run, name=name, ptx=ptx))


def _groups() -> Iterator[Part]:
    """By warpgroups that multiply: cycles until a group is issued, is done, a product of all."""
    for (columns, registers), count in itertools.product(_SHAPES, _COUNTS):
        ptx = programs.group(columns, registers, count)

        def run(gpu: Gpu, columns: int, count: int, ptx: str) -> dict[int, list[float]]:
            found = {}
            for warpgroups in (1, 2, 3):
                if 128 * warpgroups * (columns // 2 + 40) > 65536:
                    continue
                rounds = 32
                threads = 128 * warpgroups
                taken = gpu.run(ptx, (rounds, 0), threads=threads, shared=_SHARED)
                every = max(taken[2 : 3 * warpgroups : 3]) / rounds / count / warpgroups
                found[warpgroups] = [*taken[: 3 * warpgroups], round(every, 1)]
            return found

        name = f"group {_shape(columns, registers)}, {count}"
        yield Part(name, (ptx,), partial(run, columns=columns, count=count, ptx=ptx))


def _beside() -> Iterator[Part]:
    """Cycles of a product alone and beside operations of one, two warpgroups; of an operation
    (a softmax) of a warp alone and beside products."""
    for (columns, registers), name in itertools.product(_SHAPES, _NAMES):
        ptx = programs.beside(name, columns, registers, _PRODUCTS, _COUNT)

        def run(gpu: Gpu, name: str, ptx: str) -> dict[int, list[float]]:
            done = 1 if name == programs.SOFTMAX else _COUNT
            found = {}
            for others in (1, 2):
                launch = partial(gpu.run, ptx, threads=128 * (1 + others), shared=_SHARED)
                many = 40 * _PRODUCTS
                alone = launch((40, 0))[0] / many
                with_others = launch((40, 4000))[0] / many
                operation = launch((0, 40))[1] / 40 / done
                with_products = launch((400, 40))[1] / 40 / done
                row = (alone, with_others, operation, with_products)
                found[others] = [round(each, 2) for each in row]
            return found

        yield Part(
            f"beside {_shape(columns, registers)}, {name}", (ptx,), partial(run, name=name, ptx=ptx)
        )


def _overlaps() -> Iterator[Part]:
    """Cycles since the first warpgroup began: the end of its products; the second's begin, when
    all of its own were issued, and their end."""
    for columns, registers, first, second in (
        *((128, registers, 16, second) for registers in (False, True) for second in (1, 2, 4, 8)),
        *((128, False, first, 8) for first in (2, 4, 8)),
        *((64, True, 16, second) for second in (2, 8)),
        (80, False, 16, 8),
        (256, True, 8, 8),
    ):
        ptx = programs.overlap(columns, registers, first, second)

        def run(gpu: Gpu, ptx: str) -> list[int]:
            gpu.run(ptx, threads=256, shared=_SHARED)
            begin, *others = gpu.run(ptx, threads=256, shared=_SHARED)[:5]
            return [each - begin for each in others]

        name = f"overlap {_shape(columns, registers)}, {first} and {second}"
        yield Part(name, (ptx,), partial(run, ptx=ptx))


def _hand_overs() -> Iterator[Part]:
    """Cycles from one warpgroup to the other."""
    for named in (True, False):
        ptx = programs.hand_over(named)

        def run(gpu: Gpu, ptx: str) -> float:
            return gpu.run(ptx, (128, 0), threads=256, shared=1024)[0] / 256

        yield Part(
            f"hand over, {'named barrier' if named else 'mbarrier'}", (ptx,), partial(run, ptx=ptx)
        )


def _turns() -> Iterator[Part]:
    """Cycles of a product where two warpgroups issue groups in turn."""
    for (columns, registers), count in itertools.product(_SHAPES, (4, 8, 16)):
        ptx = programs.products_in_turn(columns, registers, count)

        def run(gpu: Gpu, ptx: str, count: int) -> float:
            return round(gpu.run(ptx, (64, 0), threads=256, shared=_SHARED)[0] / 128 / count, 2)

        yield Part(
            f"turns {_shape(columns, registers)}, {count}",
            (ptx,),
            partial(run, ptx=ptx, count=count),
        )


def _memory() -> Iterator[Part]:
    """Cycles of bulk copies, first (device memory) and fastest later round (L2)."""
    for size, count, everyone, stride in (
        (128, 1, False, 0),
        (16384, 1, False, 0),
        (32768, 1, False, 0),
        (32768, 6, False, 0),
        (32768, 6, True, 6 * 32768),
        (32768, 6, True, 0),
        (16384, 1, True, 16384),
        (16384, 1, True, 0),
    ):
        ptx = programs.copies(size, count, cta_stride=stride)

        def run(gpu: Gpu, ptx: str, everyone: bool) -> tuple[int, int]:
            gpu.flush()
            ctas = gpu.multiprocessors if everyone else 1
            taken = gpu.run(ptx, threads=32, ctas=ctas, shared=_SHARED)
            by_cta = [taken[4 * cta : 4 * cta + 4] for cta in range(ctas)]
            first = statistics.mean(each[0] for each in by_cta)
            later = min(statistics.mean(x) for x in zip(*(e[1:] for e in by_cta), strict=True))
            return round(first), round(later)

        who = ("every CTA its own" if stride else "every CTA the same") if everyone else "one CTA"
        yield Part(
            f"{count} copies of {size}, {who}", (ptx,), partial(run, ptx=ptx, everyone=everyone)
        )
    for size in (128, 16384, 32768):
        ptx = programs.stores(size)

        def run_store(gpu: Gpu, ptx: str) -> int:
            return min(gpu.run(ptx, threads=32, shared=_SHARED)[:3])

        yield Part(f"store of {size} read", (ptx,), partial(run_store, ptx=ptx))


def _launches() -> Iterator[Part]:
    """Cycles from the end of a CTA to the first instruction of the next on its multiprocessor."""
    ptx = programs.lifetimes()

    def run(gpu: Gpu) -> dict[str, float]:
        ctas = 5 * gpu.multiprocessors
        taken = gpu.run(ptx, (40, 0), threads=384, ctas=ctas, shared=_SHARED)
        by_place: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, begin, end in zip(*(taken[i : 3 * ctas : 3] for i in range(3)), strict=True):
            by_place[place].append((begin, end))
        gaps = [
            after[0] - before[1]
            for lives in map(sorted, by_place.values())
            for before, after in itertools.pairwise(lives)
        ]
        return {"median": statistics.median(gaps), "least": min(gaps), "most": max(gaps)}

    yield Part("launch", (ptx,), run)


def parts() -> list[Part]:
    """All of them, the most telling ones first."""
    makers = (_hand_overs, _overlaps, _turns, _rates, _groups, _beside, _memory, _launches)
    return [part for maker in makers for part in maker()]


def assemble(ptxas: str, texts: list[str]) -> dict[str, bytes]:
    """Cubins, on all cores."""

    def one(text: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
            source.write_text(text)
            subprocess.run([ptxas, "-arch", "sm_90a", source, "-o", cubin], check=True)
            return cubin.read_bytes()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(texts, pool.map(one, texts), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hopper.units", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--ptxas", default=shutil.which("ptxas"))
    options = parser.parse_args()
    every = parts()
    texts = list(dict.fromkeys(text for part in every for text in part.ptx))
    gpu = Gpu(assemble(options.ptxas, texts).__getitem__ if options.ptxas else None)
    found: dict[str, Any] = {}
    for part in every:
        try:
            found[part.name] = part.run(gpu)
        except RuntimeError as error:  # what is left of the context may still say
            found[part.name] = str(error)
        print(part.name, json.dumps(found[part.name]), flush=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
