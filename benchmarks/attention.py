"""Time attention: cells x contestants, checked, as a table, JSON and Markdown.

    python -m benchmarks.attention --head-dim 128 --pass fwd --json out.json

benchmarks/README.md states the protocol; `python -m benchmarks.merge` joins several runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Several libraries share the GPU in this process; set before jax is imported.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

from benchmarks import cells as cells_module
from benchmarks import environment, measure, peers, report
from benchmarks.cells import Cell

QUICK_SEQLENS = (2048, 8192)
QUICK_ROUNDS = 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.attention", description="Time attention beside its peers."
    )
    add = result.add_argument
    add("--cells", nargs="+", default=["*"], help="shell patterns, such as 'd128-s*-causal-fwd'")
    add(
        "--head-dim",
        nargs="+",
        type=head_dims,
        default=list(cells_module.HEAD_DIMS),
        help="as 128, or as 192:128 where values have their own",
    )
    add("--seqlens", nargs="+", type=int, help="default: 512 2048 8192 16384")
    add("--causal", choices=["full", "causal", "both"], default="both", help="which masks")
    add("--pass", dest="passes", nargs="+", choices=cells_module.PASSES, help="default: both")
    add("--peers", nargs="+", choices=list(peers.PEERS), default=list(peers.DEFAULT_PEERS))
    add("--rounds", type=int, help="samples of each contestant (default 5; 3 when quick)")
    add("--quick", action="store_true", help="lengths 2048 and 8192, three rounds")
    add("--json", type=Path, help="written anew after every cell")
    add("--markdown", type=Path)
    add("--time-limit", type=float, help="seconds after which no new cell starts")
    add("--tokens", type=int, default=cells_module.TOKENS, help="of a whole batch")
    add("--hidden", type=int, default=cells_module.HIDDEN, help="heads times head dim")
    add("--matmul-size", type=int, default=8192, help="of the product that measures the peak")
    add("--list", action="store_true", help="name the chosen cells and stop")
    return result


def head_dims(words: str) -> cells_module.HeadDims:
    """128, or 192:128 for queries and keys of 192 and values of 128."""
    head_dim, colon, head_dim_v = words.partition(":")
    return (int(head_dim), int(head_dim_v)) if colon else int(head_dim)


def choose(arguments: argparse.Namespace) -> list[Cell]:
    """The cells that the command line asks for."""
    chosen = cells_module.grid(
        head_dims=arguments.head_dim,
        seqlens=arguments.seqlens or (QUICK_SEQLENS if arguments.quick else cells_module.SEQLENS),
        masks=cells_module.MASKS if arguments.causal == "both" else [arguments.causal],
        passes=arguments.passes or cells_module.PASSES,
        tokens=arguments.tokens,
        hidden=arguments.hidden,
    )
    return cells_module.matching(chosen, arguments.cells)


class Budget:
    """Seconds since the start, and whether another step as long as the longest yet fits."""

    def __init__(self, limit: float | None) -> None:
        self.started, self.limit = time.monotonic(), limit
        self.longest: dict[str, float] = {}

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def allows(self, kind: str) -> bool:
        return not self.limit or self.elapsed() + self.longest.get(kind, 0.0) <= self.limit

    def took(self, kind: str, since: float) -> float:
        seconds = self.elapsed() - since
        self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)
        return seconds


def run(arguments: argparse.Namespace, cells: Sequence[Cell]) -> dict[str, Any]:
    """Measure every cell; print a line for each and keep the JSON up to date."""
    budget = Budget(arguments.time_limit)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else 5)
    contestants, absent = peers.load(arguments.peers)
    described = environment.describe()
    _say(f"{described['gpu']}, driver {described['driver']}, {described['packages']}")
    for name, reason in absent.items():
        _say(f"{name} is absent: {reason}")
    for words in _gradients(cells) if "jax_fa4" in contestants else ():
        _say(words)
    peak = measure.matmul_peak(arguments.matmul_size, rounds=rounds)
    _say(f"bf16 product of {arguments.matmul_size} cubed: {peak:.3g} TFLOP/s")
    document: dict[str, Any] = {
        "schema": report.SCHEMA,
        "runs": [
            {
                "environment": described,
                "method": {
                    "tokens": arguments.tokens,
                    "hidden": arguments.hidden,
                    "rounds": rounds,
                    "distinct_inputs": measure.DISTINCT_INPUTS,
                    "matmul_size": arguments.matmul_size,
                },
                "peak_tflops": peak,
                "peers": list(arguments.peers),
                "absent": absent,
            }
        ],
        "results": [],
    }
    done = 0
    for prepared in _prepared(cells, contestants, budget):
        since = budget.elapsed()
        results = measure.measure(prepared, rounds=rounds, peak_tflops=peak)
        budget.took("cell", since)
        done += 1
        document["results"] += [dataclasses.asdict(result) for result in results]
        _say(f"[{done}/{len(cells)} {budget.elapsed():4.0f} s] {_line(prepared.cell, results)}")
        if arguments.json:
            report.save(arguments.json, document)
    if left := cells[done:]:
        _say(f"stopped by --time-limit; not measured: {' '.join(cell.name for cell in left)}")
    return document


def _prepared(
    cells: Sequence[Cell], contestants: Mapping[str, peers.Attend], budget: Budget
) -> Iterator[measure.Prepared]:
    """Cells, compiled a head dim and pass at a time, while the time lasts."""
    for _, group in itertools.groupby(
        cells, lambda cell: (cell.pass_, cell.head_dim, cell.head_dim_v)
    ):
        if not budget.allows("compile"):
            return
        since = budget.elapsed()
        prepared = measure.prepare(list(group), contestants)
        programs = sum(len(one.programs) for one in prepared)
        _say(f"{programs} programs compiled in {budget.took('compile', since):.0f} s")
        while prepared:
            if not budget.allows("cell"):
                return
            yield prepared.pop(0)  # who is done may be freed


def _gradients(cells: Sequence[Cell]) -> list[str]:
    """Which path ours takes in the cells with a backward, a line for each head dim."""
    from jax_fa4 import explain

    some = {cell.name.partition("-")[0]: cell for cell in cells if cell.backward}
    lines = []
    for name, cell in some.items():
        x, v = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in (cell.shape, cell.shape_v))
        lines.append(f"{name}: {explain(x, x, v)}")
    return lines


def _line(cell: Cell, results: Sequence[measure.Result]) -> str:
    return f"{cell.name}: " + ", ".join(map(_words, results))


def _words(result: measure.Result) -> str:
    speed = f"{result.tflops or 0.0:.3g} +-{50 * (result.spread or 0.0):.0f}%"
    if result.status == "ok":
        return f"{result.peer} {speed}"
    said = f"{result.peer} {result.status.upper()} {result.detail}"
    return f"{said} ({speed})" if result.tflops else said


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if a contestant of ours was wrong or failed, or nobody was timed."""
    arguments = parser().parse_args(argv)
    try:
        cells = choose(arguments)
    except ValueError as error:
        parser().error(str(error))
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    document = run(arguments, cells)
    print(report.as_text(document), flush=True)
    if arguments.markdown:
        arguments.markdown.write_text(report.as_markdown(document))
    ours_failed = any(
        peers.PEERS[row["peer"]].ours and row["status"] != "ok" for row in document["results"]
    )
    timed = any(row["status"] == "ok" for row in document["results"])
    return 1 if ours_failed or not timed else 0


if __name__ == "__main__":
    sys.exit(main())
