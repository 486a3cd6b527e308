"""Attention of one sequence over 1, 2, 4 ... devices of a host: time, scaling, and overlap.

    python -m benchmarks.context_parallel --seqlens 32768 131072 --markdown results.md

Strong scaling: the sequence stays and the devices grow. A figure is the median of interleaved
samples, each several executions and one wait. Per device: TFLOP/s are 4 S S H D (half when causal,
times 3.5 with the backward) over time and devices; the efficiency is that over one device's, which
runs `flash_attention`. The overlap is from a profile: of the time that a device's NCCL kernels
take, the share in which one of our kernels runs on that device, too. Results are compared with
one device's before they are timed.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax_fa4
from benchmarks import environment
from jax_fa4.testing import timing

SPEC = PartitionSpec(None, "context")
HEADER = """\
| pass | S | window | strategy | layout | devices | ms | TFLOP/s a device | efficiency | overlap |
| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |
"""
PROFILED = 5  # executions in a profile
WAYS = (("ring", "zigzag"), ("ring", "striped"), ("ring", "contiguous"), ("ulysses", "contiguous"))

Interval = tuple[float, float]


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
        generator = np.random.default_rng(0)
        arrays = [
            generator.standard_normal(shape, dtype=np.float32).astype(jnp.bfloat16)
            for shape in self.shapes
        ]
        positions = jax_fa4.layout_positions(self.layout, self.devices, self.seqlen)
        return [jax.device_put(x[:, positions], place) for x in arrays]

    def in_order(self, results: Any) -> list[np.ndarray]:
        """Results on the host, in the order of the sequence."""
        inverse = np.argsort(jax_fa4.layout_positions(self.layout, self.devices, self.seqlen))
        return [np.asarray(x)[:, inverse].astype(np.float32) for x in results]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time in intervals that do not touch."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def common(a: Iterable[Interval], b: Iterable[Interval]) -> float:
    """Time in intervals of both."""
    pairs = itertools.product(union(a), union(b))
    return sum(max(0.0, min(x[1], y[1]) - max(x[0], y[0])) for x, y in pairs)


def overlap(trace: dict[str, Any]) -> float | None:
    """Share of the time of NCCL's kernels in which one of ours runs on the same device."""
    sent: dict[int, list[Interval]] = {}
    computed: dict[int, list[Interval]] = {}
    for event in trace["traceEvents"]:
        if event.get("ph") != "X":
            continue
        name, interval = event["name"], (event["ts"], event["ts"] + event["dur"])
        if name.startswith("ncclDevKernel"):
            sent.setdefault(event["pid"], []).append(interval)
        elif name.startswith("kernel_cutlass") and "jax_fa4" in name:
            computed.setdefault(event["pid"], []).append(interval)
    total = sum(end - start for device in sent.values() for start, end in union(device))
    hidden = sum(common(device, computed.get(pid, ())) for pid, device in sent.items())
    return hidden / total if total else None


def profiled(call: Callable[[], Any]) -> float | None:
    """The overlap in a few executions."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(PROFILED):
                result = call()
            jax.block_until_ready(result)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        return overlap(json.loads(gzip.decompress(path.read_bytes())))


def differs(one: Cell, found: Any, wanted: list[np.ndarray]) -> str | None:
    """The result that is not that of one device; how close it must be is the tests' matter.

    Four roundings to bfloat16 on either side: of P, of dS, of a device's share, of the result.
    Rows or keys out of place are off by as much as there is.
    """
    for name, a, b in zip(("out", "dq", "dk", "dv"), one.in_order(found), wanted, strict=False):
        error, allowed = np.linalg.norm(a - b), 4 * 2.0**-8 * np.linalg.norm(b)
        if not error <= allowed:
            return f"{name} is off by {error / np.linalg.norm(b):.2g}"
    return None


def cells_of(options: argparse.Namespace, seqlen: int, window: int | None, backward: bool) -> list:
    """One device, then every way on 2, 4, ... devices."""
    make = functools.partial(
        Cell, seqlen, options.heads, options.heads_kv, options.head_dim, window, backward
    )
    counts = [n for n in options.devices if 1 < n <= jax.device_count()]
    return [make(1, "one", "contiguous")] + [
        make(n, *way) for n in counts for way in WAYS if way[0] == "ring" or not options.heads % n
    ]


def measure(cells: Sequence[Cell], rounds: int) -> Iterable[str]:
    """A line of the table for each cell, the first being one device's."""
    calls = {cell: functools.partial(cell.function(), *cell.inputs()) for cell in cells}
    wanted = cells[0].in_order(calls[cells[0]]())
    wrong = {cell: differs(cell, call(), wanted) for cell, call in calls.items()}
    executions = {str(cell): timing.calibrate(call) for cell, call in calls.items()}
    by_name = {str(cell): call for cell, call in calls.items()}
    timed = timing.interleaved(by_name, executions, rounds=rounds)
    alone = timed[str(cells[0])].seconds
    for cell in cells:
        seconds = timed[str(cell)].seconds
        share = profiled(calls[cell]) if cell.devices > 1 else None
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
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if a result is wrong."""
    options = parser().parse_args(argv)
    found = environment.describe()
    command = environment.command(sys.argv[1:] if argv is None else argv, "context_parallel")
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    page = (
        f"# Sequences split over the devices of a host: {found['gpu']} x {jax.device_count()}\n\n"
        f"Written by `{command}`.\nCausal, bf16, batch 1, {options.heads} heads, "
        f"{options.heads_kv} key heads of {options.head_dim}; median of {options.rounds} "
        f"interleaved samples.\nDriver {found['driver']}, {packages}, "
        f"XLA_FLAGS {os.environ.get('XLA_FLAGS', 'none')!r}.\n\n{HEADER}"
    )
    print(page, end="", flush=True)
    for seqlen, window, backward in itertools.product(
        options.seqlens, options.windows, (False, True)
    ):
        for line in measure(cells_of(options, seqlen, window or None, backward), options.rounds):
            print(line, end="", flush=True)
            page += line
            if options.markdown:
                options.markdown.write_text(page)
    return int("WRONG" in page)


if __name__ == "__main__":
    raise SystemExit(main())
