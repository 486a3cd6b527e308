"""Decoding beside a copy: bytes of the cache a second, kernels and peers, in one process.

    python -m benchmarks.decode --markdown benchmarks/results/h100-decode.md

A step reads 2 x batch x keys x KV heads x head dim x 2 bytes of the cache; what else it moves is
below a thousandth of that where new tokens are few. The copy, from device memory to device memory,
reads and writes as many bytes in all; the faster of two counts: XLA's copy, and a + 1. Calls take
turns over caches of 2 GB and more together, so that no cache of the GPU holds one.

Peers: jax.nn on its cuDNN and XLA paths with the same lengths, and this package's portable path.
jax.nn has neither pages nor a causal order of the new tokens: there all of them see all keys.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from benchmarks.environment import version
from jax_fa4.testing import timing


@dataclass(frozen=True)
class Cell:
    """A step of `queries` new tokens of each sequence."""

    batch: int
    keys: int
    heads: int = 32
    heads_kv: int = 8
    head_dim: int = 128
    queries: int = 1
    page_size: int = 0

    @property
    def bytes(self) -> int:
        return 4 * self.batch * self.keys * self.heads_kv * self.head_dim

    @property
    def name(self) -> str:
        pages = f"pages of {self.page_size}" if self.page_size else "contiguous"
        return (
            f"{self.batch} x {self.keys}, {self.heads}/{self.heads_kv} heads of {self.head_dim}, "
            f"{self.queries} new, {pages}"
        )


TARGET = Cell(8, 32768)
CELLS = (
    *(Cell(8, 32768, heads=h, queries=n) for n in (1, 4, 16) for h in (8, 16, 32, 64)),
    *(Cell(8, 32768, page_size=size) for size in (16, 64, 256)),
    Cell(8, 32768, head_dim=64),
    Cell(64, 4096),
    Cell(1, 131072),
    Cell(128, 1024),
)
WITH_PEERS = (TARGET, Cell(8, 32768, heads=8), Cell(8, 32768, queries=16))
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 33)  # of the target's keys, beside the default
ROTATED_BYTES = 2e9
COPIES = {"copy": jnp.copy, "add": lambda a: a + jnp.bfloat16(1)}
PEERS = ("jax.nn cudnn", "jax.nn xla", "portable")


def make(cell: Cell, seed: int) -> tuple[jax.Array, ...]:
    """q, the caches, lengths, and the table of pages in random order if there is one."""
    keys = jax.random.split(jax.random.key(seed), 3)
    row = (cell.heads_kv, cell.head_dim)
    pages = cell.batch * cell.keys // cell.page_size if cell.page_size else 0
    cache = (pages, cell.page_size, *row) if pages else (cell.batch, cell.keys, *row)
    shapes = ((cell.batch, cell.queries, cell.heads, cell.head_dim), cache, cache)
    arrays = [jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes, strict=True)]
    lengths = jnp.full((cell.batch,), cell.keys, jnp.int32)
    order = np.random.default_rng(seed).permutation(pages).astype(np.int32)
    table = (jnp.asarray(order.reshape(cell.batch, -1)),) if pages else ()
    return (*arrays, lengths, *table)


def ours(*x: jax.Array, implementation: Any = "fa4", parts: int | None = None) -> jax.Array:
    return jax_fa4.decode_attention(
        *x[:3],
        key_value_seq_lengths=x[3],
        page_table=x[4] if len(x) > 4 else None,
        num_splits=parts,
        implementation=implementation,
    )


def peer(implementation: str, *x: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(
        *x[:3], key_value_seq_lengths=x[3], implementation=implementation
    )


def rotating(function: Callable[..., Any], inputs: list[tuple[jax.Array, ...]]) -> Any:
    """A call that takes the next of the inputs each time."""
    compiled, turns = jax.jit(function), itertools.cycle(inputs)
    return lambda: compiled(*next(turns))


def contestants(cell: Cell) -> dict[str, Callable[[], Any]]:
    """What is timed, over the same caches."""
    count = max(2, -(-int(ROTATED_BYTES) // cell.bytes))
    inputs = [make(cell, seed) for seed in range(count)]
    calls = {"jax_fa4": rotating(ours, inputs)}
    # One of the two caches, read and written: the cell's bytes.
    calls |= {name: rotating(copy, [x[1:2] for x in inputs]) for name, copy in COPIES.items()}
    if cell == TARGET:
        for parts in PARTS:
            name = f"{parts} parts"
            calls[name] = rotating(functools.partial(ours, parts=parts), inputs)
    if cell in WITH_PEERS:
        for name in ("cudnn", "xla"):
            calls[f"jax.nn {name}"] = rotating(functools.partial(peer, name), inputs)
        calls["portable"] = rotating(functools.partial(ours, implementation="xla"), inputs)
    return calls


def measure(cell: Cell, rounds: int) -> dict[str, float]:
    """Seconds of a step of each contestant that runs."""
    calls = contestants(cell)
    executions = {}
    for name in list(calls):
        try:
            executions[name] = timing.calibrate(calls[name])
        except Exception as error:
            if name not in PEERS:
                raise
            print(f"{cell.name}: {name} does not run: {str(error).splitlines()[0]}", flush=True)
            del calls[name]
    found = timing.interleaved(calls, executions, rounds=rounds)
    return {name: x.seconds for name, x in found.items()}


def line(cell: Cell, seconds: dict[str, float]) -> str:
    """The cell's line of the table."""
    rates = {name: cell.bytes / x / 1e12 for name, x in seconds.items()}
    copy = max(rates[name] for name in COPIES)
    peers = [f"{rates[name]:.2f}" if name in rates else "-" for name in PEERS]
    return (
        f"| {cell.name} | {seconds['jax_fa4'] * 1e6:.0f} | {rates['jax_fa4']:.2f} | {copy:.2f} | "
        f"{rates['jax_fa4'] / copy:.0%} | {' | '.join(peers)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = jax.devices("cuda")[0]
    lines = [
        "# Decoding",
        "",
        f"Written by `python -m benchmarks.decode`. {device.device_kind}, jax {version('jax')}, "
        f"cuDNN {version('nvidia-cudnn-cu13')}, jax_fa4 {version('jax_fa4')}; bfloat16, TB/s of "
        f"the cache, medians of {options.rounds} interleaved samples.",
        "",
        f"| batch x keys | us | jax_fa4 | copy | share | {' | '.join(PEERS)} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts: list[str] = []
    for cell in CELLS:
        seconds = measure(cell, options.rounds)
        lines.append(line(cell, seconds))
        print(lines[-1], flush=True)
        if cell == TARGET:
            times = {name: x for name, x in seconds.items() if name.endswith("parts")}
            parts = [f"{name}: {x * 1e6:.0f} us" for name, x in times.items()]
            print(", ".join(parts), flush=True)
    text = "\n".join([*lines, "", f"{TARGET.name}, keys cut into {', '.join(parts)}."]) + "\n"
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
