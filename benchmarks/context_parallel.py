"""Attention of one sequence over 1, 2, 4 ... devices of a host: time, scaling, and overlap.

    python -m benchmarks.context_parallel --seqlens 32768 131072 --markdown results.md
    python -m benchmarks.context_parallel --quick  # about a minute

Strong scaling: the sequence stays and the devices grow. A figure is the median of interleaved
samples, each several executions and one wait. Per device: TFLOP/s are 4 S S H D (half when causal,
times 3.5 with the backward) over time and devices; the efficiency is that over one device's, which
runs `flash_attention`. The overlap is from a profile (`overlap`). Results are compared with one
device's before they are timed. All programs are compiled first, side by side.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax_fa4
from benchmarks import environment, overlap
from jax_fa4.testing import timing

SPEC = PartitionSpec(None, "context")
HEADER = """\
| pass | S | window | strategy | layout | devices | ms | TFLOP/s a device | efficiency | overlap |
| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |
"""
WAYS = (("ring", "zigzag"), ("ring", "striped"), ("ring", "contiguous"), ("ulysses", "contiguous"))
# For --quick: without a window and with one.
QUICK = {False: (WAYS[0], WAYS[3]), True: (WAYS[2],)}
# Around the kernels there are only sums and copies: nothing worth its tuning.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": "0"}


@dataclass(frozen=True)
class Cell:
    """One program: what is computed, and how it is split."""

    seqlen: int
    heads: int
    heads_kv: int
    head_dim: int
    window: int | None
    backward: bool
    devices: int
    strategy: str
    layout: str

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        q = (1, self.seqlen, self.heads, self.head_dim)
        k = (1, self.seqlen, self.heads_kv, self.head_dim)
        return q, k, k, q

    @property
    def flops(self) -> float:
        """Of what the mask shows, by all devices."""
        rows = np.arange(1, self.seqlen + 1, dtype=np.float64)
        seen = rows if self.window is None else np.minimum(rows, self.window + 1)
        return 4 * self.heads * self.head_dim * float(seen.sum()) * (3.5 if self.backward else 1)

    @property
    def mesh(self) -> Mesh:
        return jax.make_mesh(
            (self.devices,),
            ("context",),
            axis_types=(AxisType.Auto,),
            devices=jax.devices()[: self.devices],
        )

    def function(self) -> Callable[..., Any]:
        """out, with the backward also dq, dk, dv, of q, k, v, dout in the layout."""
        window = (self.window, None)
        if self.devices == 1:
            attend = functools.partial(jax_fa4.flash_attention, causal=True, window_size=window)
        else:
            attend = functools.partial(
                jax_fa4.context_parallel_attention,
                mesh=self.mesh,
                spec=SPEC,
                layout=self.layout,
                strategy=self.strategy,
                causal=True,
                window_size=window,
            )

        def run(q: Any, k: Any, v: Any, dout: Any) -> Any:
            if not self.backward:
                return (attend(q, k, v),)
            out, pull = jax.vjp(attend, q, k, v)
            return out, *pull(dout)

        return jax.jit(run)

    def inputs(self) -> list[jax.Array]:
        """Normal arrays in the layout, drawn alike for any number of devices."""
        place = NamedSharding(self.mesh, SPEC)
        keys = jax.random.split(jax.random.key(0), 4)
        arrays = [
            jax.random.normal(key, shape, jnp.bfloat16)
            for key, shape in zip(keys, self.shapes, strict=True)
        ]
        laid = (jax_fa4.to_layout(x, self.layout, self.devices) for x in arrays)
        return [jax.device_put(x, place) for x in laid]

    def in_order(self, results: Any) -> list[jax.Array]:
        """Results on the first device, in the order of the sequence."""
        gathered = jax.device_put(results, jax.devices()[0])
        return [jax_fa4.from_layout(x, self.layout, self.devices) for x in gathered]

    def compile(self) -> Callable[..., Any]:
        """The program, ready to run."""
        place = NamedSharding(self.mesh, SPEC)
        arrays = (jax.ShapeDtypeStruct(x, jnp.bfloat16, sharding=place) for x in self.shapes)
        program: Any = self.function().lower(*arrays)
        compiled: Callable[..., Any] = program.compile(compiler_options=COMPILER_OPTIONS)
        return compiled


def differs(one: Cell, found: Any, wanted: list[np.ndarray]) -> str | None:
    """The result that is not that of one device; how close it must be is the tests' matter.

    Four roundings to bfloat16 on either side: of P, of dS, of a device's share, of the result.
    Rows or keys out of place are off by as much as there is.
    """
    for name, a, b in zip(("out", "dq", "dk", "dv"), one.in_order(found), wanted, strict=False):
        a, b = (x.astype(jnp.float32) for x in (a, b))
        error, length = float(jnp.linalg.norm(a - b)), float(jnp.linalg.norm(b))
        if not error <= 4 * 2.0**-8 * length:
            return f"{name} is off by {error / length:.2g}"
    return None


def cells_of(options: argparse.Namespace, seqlen: int, window: int | None, backward: bool) -> list:
    """One device, then every way on 2, 4, ... devices."""
    make = functools.partial(
        Cell, seqlen, options.heads, options.heads_kv, options.head_dim, window, backward
    )
    counts = [n for n in options.devices if 1 < n <= jax.device_count()]
    ways = QUICK[window is not None] if options.quick else WAYS
    return [make(1, "one", "contiguous")] + [
        make(n, *way) for n in counts for way in ways if way[0] == "ring" or not options.heads % n
    ]


def measure(
    cells: Sequence[Cell], programs: dict[Cell, Callable[..., Any]], rounds: int
) -> Iterable[str]:
    """A line of the table for each cell, the first being one device's."""
    calls = {cell: functools.partial(programs[cell], *cell.inputs()) for cell in cells}
    wanted = cells[0].in_order(calls[cells[0]]())
    wrong = {cell: differs(cell, call(), wanted) for cell, call in calls.items()}
    executions = {str(cell): timing.calibrate(call) for cell, call in calls.items()}
    by_name = {str(cell): call for cell, call in calls.items()}
    timed = timing.interleaved(by_name, executions, rounds=rounds)
    alone = timed[str(cells[0])].seconds
    for cell in cells:
        seconds = timed[str(cell)].seconds
        share = overlap.profiled(calls[cell]) if cell.devices > 1 else None
        yield row(cell, seconds, alone, share, wrong[cell])


def row(cell: Cell, seconds: float, alone: float, share: float | None, wrong: str | None) -> str:
    """One line of the table."""
    words = [
        "fwdbwd" if cell.backward else "fwd",
        cell.seqlen,
        "-" if cell.window is None else cell.window,
        cell.strategy,
        cell.layout,
        cell.devices,
        f"{seconds * 1e3:.2f}",
        f"{cell.flops / seconds / cell.devices / 1e12:.0f}",
        f"{alone / seconds / cell.devices:.2f}" if wrong is None else f"WRONG: {wrong}",
        "-" if share is None else f"{share:.0%}",
    ]
    return f"| {' | '.join(map(str, words))} |\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.context_parallel")
    add = result.add_argument
    add("--seqlens", nargs="+", type=int, default=[32768, 131072])
    add("--devices", nargs="+", type=int, default=[2, 4, 8])
    add("--windows", nargs="+", type=int, default=[0, 4096], help="0: none, all causal")
    add("--heads", type=int, default=16)
    add("--heads-kv", type=int, default=4)
    add("--head-dim", type=int, default=128)
    add("--rounds", type=int, default=5)
    add("--markdown", type=Path)
    add("--quick", action="store_true", help="S 65536, the best ways alone, fewer samples")
    add("--seconds", type=float, default=float("inf"), help="begin no further problem after them")
    return result


def page_head(options: argparse.Namespace, argv: Sequence[str]) -> str:
    """What was measured on what, and the head of the table."""
    found = environment.describe()
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return (
        f"# Sequences split over the devices of a host: {found['gpu']} x {jax.device_count()}\n\n"
        f"Written by `{environment.command(argv, 'context_parallel')}`.\nCausal, bf16, batch 1, "
        f"{options.heads} heads, {options.heads_kv} key heads of {options.head_dim}; median of "
        f"{options.rounds} interleaved samples.\nDriver {found['driver']}, {packages}, "
        f"XLA_FLAGS {os.environ.get('XLA_FLAGS', 'none')!r}.\n\n{HEADER}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if a result is wrong."""
    start = time.monotonic()
    argv = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(argv)
    if options.quick:
        options.seqlens, options.rounds = [65536], 3
    page = page_head(options, argv)
    print(page, end="", flush=True)
    problems = itertools.product(options.seqlens, options.windows, (False, True))
    groups = [cells_of(options, s, window or None, backward) for s, window, backward in problems]
    every = list(itertools.chain(*groups))
    with ThreadPoolExecutor() as pool:
        programs = dict(zip(every, pool.map(Cell.compile, every), strict=True))
    print(f"compiled {len(every)} programs by {time.monotonic() - start:.0f} s", file=sys.stderr)
    for cells in groups:
        if time.monotonic() - start > options.seconds:
            page += f"\nOut of time before {cells[0]}.\n"
            break
        for line in measure(cells, programs, options.rounds):
            print(line, end="", flush=True)
            page += line
            if options.markdown:
                options.markdown.write_text(page)
    return int("WRONG" in page)


if __name__ == "__main__":
    raise SystemExit(main())
