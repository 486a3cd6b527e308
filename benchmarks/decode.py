"""Decoding beside a copy: bytes of the cache a second, kernels and peers, in one process.

    python -m benchmarks.decode --markdown benchmarks/results/h100-decode.md

A step reads 2 x batch x keys x KV heads x head dim x 2 bytes of the cache; what else it moves is
below a thousandth of that. The copy reads and writes as many bytes in all. Peers: the same step by
jax.nn on its cuDNN and XLA paths, which takes the lengths, and has no pages.
"""

from __future__ import annotations

import argparse
import functools
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


CELLS = (
    Cell(8, 32768),
    Cell(8, 32768, page_size=16),
    Cell(8, 32768, page_size=64),
    Cell(8, 32768, page_size=256),
    Cell(8, 32768, queries=4),
    Cell(8, 32768, queries=16),
    Cell(8, 32768, heads=64),
    Cell(8, 32768, head_dim=64),
    Cell(64, 4096),
    Cell(1, 131072),
    Cell(128, 1024),
)


def make(cell: Cell) -> tuple[jax.Array, ...]:
    """q, the caches, lengths, and the table of pages in random order if there is one."""
    keys = jax.random.split(jax.random.key(0), 3)
    row = (cell.heads_kv, cell.head_dim)
    pages = cell.batch * cell.keys // cell.page_size if cell.page_size else 0
    cache = (pages, cell.page_size, *row) if pages else (cell.batch, cell.keys, *row)
    shapes = ((cell.batch, cell.queries, cell.heads, cell.head_dim), cache, cache)
    arrays = [jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes, strict=True)]
    lengths = jnp.full((cell.batch,), cell.keys, jnp.int32)
    order = np.random.default_rng(0).permutation(pages).astype(np.int32)
    table = (jnp.asarray(order.reshape(cell.batch, -1)),) if pages else ()
    return (*arrays, lengths, *table)


def ours(*x: jax.Array) -> jax.Array:
    table = x[4] if len(x) > 4 else None
    return jax_fa4.decode_attention(
        *x[:3], key_value_seq_lengths=x[3], page_table=table, implementation="fa4"
    )


def peer(implementation: str, *x: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(
        *x[:3], key_value_seq_lengths=x[3], implementation=implementation
    )


def contestants(cell: Cell, x: tuple[jax.Array, ...]) -> dict[str, Callable[[], Any]]:
    """What is timed; those that cannot run the cell are left out."""
    half = jnp.zeros((cell.bytes // 4,), jnp.bfloat16)  # read and written: the cell's bytes
    calls: dict[str, Callable[[], Any]] = {
        "copy": functools.partial(jax.jit(lambda a: a + jnp.bfloat16(1)), half),
        "jax_fa4": functools.partial(jax.jit(ours), *x),
    }
    if cell.queries == 1 and not cell.page_size:
        for name in ("cudnn", "xla"):
            calls[f"jax.nn {name}"] = functools.partial(jax.jit(functools.partial(peer, name)), *x)
    return calls


def measure(cell: Cell) -> str:
    """The cell's line of the table."""
    calls = contestants(cell, make(cell))
    executions = {}
    for name in list(calls):
        try:
            executions[name] = timing.calibrate(calls[name])
        except Exception as error:
            if name in ("copy", "jax_fa4"):
                raise
            print(f"{cell.name}: {name} does not run: {str(error).splitlines()[0]}")
            del calls[name]
    found = timing.interleaved(calls, executions)
    rates = {name: cell.bytes / found[name].seconds / 1e12 for name in calls}
    peers = [f"{rates[n]:.2f}" if n in rates else "-" for n in ("jax.nn cudnn", "jax.nn xla")]
    return (
        f"| {cell.name} | {found['jax_fa4'].seconds * 1e6:.0f} | {rates['jax_fa4']:.2f} | "
        f"{rates['copy']:.2f} | {rates['jax_fa4'] / rates['copy']:.0%} | {' | '.join(peers)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    device = jax.devices("cuda")[0]
    lines = [
        "# Decoding",
        "",
        f"{device.device_kind}, jax {version('jax')}, jax_fa4 {version('jax_fa4')}; TB/s, medians "
        "of interleaved samples.",
        "",
        "| batch x keys | us | jax_fa4 | copy | share | jax.nn cuDNN | jax.nn XLA |",
        "|---|---|---|---|---|---|---|",
        *map(measure, CELLS),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
