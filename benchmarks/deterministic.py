"""The backward with a fixed order of its sums beside the usual one: TFLOP/s of all its kernels.

    python -m benchmarks.deterministic --markdown benchmarks/results/h100-deterministic.md

Cells are those of `benchmarks.attention` (bf16, 16384 tokens, hidden 2048), the backward call
alone, also with several query heads a key head; four distinct inputs in one jit, samples in turns.
The gradients of the fixed order are compared bit by bit over a few executions.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

from benchmarks import environment
from benchmarks.attention import head_dims
from benchmarks.cells import HIDDEN, MASKS, SEQLENS, TOKENS, Cell, grid
from benchmarks.measure import DISTINCT_INPUTS
from jax_fa4.ffi.backward import Operands, backward
from jax_fa4.ops import selection
from jax_fa4.ops.band import Band
from jax_fa4.testing import timing
from jax_fa4.variants.problem import Problem

HEADER = """\
| head dim | heads a key head | mask | S | usual | kernel | fixed order | kernel | of the usual |
| ---: | ---: | --- | ---: | ---: | --- | ---: | --- | ---: |
"""
BITS_CHECKED = 5  # executions that are compared


@dataclass(frozen=True)
class Backward:
    """The backward of a cell with `group` query heads a key head, by kernels that a call takes."""

    cell: Cell
    group: int

    def shapes(self) -> Operands:
        batch, length, heads, width = self.cell.shape
        rows, width_v = (batch, heads, length), self.cell.head_dim_v
        many, few = (batch, length, heads), (batch, length, heads // self.group)
        shapes = ((*many, width), (*few, width), (*few, width_v), (*many, width_v))
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (*shapes, shapes[-1])]
        return Operands(*arrays, *[jax.ShapeDtypeStruct(rows, jnp.float32)] * 2)

    def kernels(self, deterministic: bool) -> tuple[str, ...]:
        """None where the gradient is portable."""
        scale = self.cell.head_dim**-0.5
        problem = Problem(
            dtype="bfloat16",
            head_dim=self.cell.head_dim,
            head_dim_v=self.cell.head_dim_v,
            softmax_scale=scale,
            deterministic=deterministic,
        )
        q, k, *_ = self.shapes()
        path = selection.select(problem, "fa4")
        return path.backward_for(q.shape, k.shape, self.band) if path.backward else ()

    @property
    def band(self) -> Band:
        length = self.cell.seqlen
        return Band.make(
            length, length, causal=self.cell.causal, window=(None, None), alignment="top_left"
        )

    def compiled(self, deterministic: bool) -> Any:
        names = self.kernels(deterministic)
        if not names:
            return None
        scale = self.cell.head_dim**-0.5

        def run(inputs: Sequence[Operands]) -> Any:
            how = {"softmax_scale": scale, "band": self.band, "variants": names}
            return [backward(operands, **how)[0] for operands in inputs]

        return jax.jit(run).lower([self.shapes()] * DISTINCT_INPUTS).compile()

    @property
    def flops(self) -> float:
        """Five products of the forward's two."""
        both = grid(
            head_dims=[(self.cell.head_dim, self.cell.head_dim_v)],
            seqlens=[self.cell.seqlen],
            masks=[self.cell.mask],
            passes=("fwd", "fwdbwd"),
            tokens=self.cell.tokens,
            hidden=self.cell.hidden,
        )
        return both[1].flops - both[0].flops


@functools.lru_cache(maxsize=4)  # the lengths of a head dim, drawn once for both masks
def _drawn(shapes: Operands) -> list[Operands]:
    """Normal arrays; lse about what their scores have, dlse 0."""

    @jax.jit
    def draw(key: jax.Array) -> Operands:
        keys = jax.random.split(key, 5)
        arrays = [
            jax.random.normal(key, x.shape, x.dtype)
            for key, x in zip(keys, shapes[:5], strict=True)
        ]
        lse = jnp.full(shapes.lse.shape, jnp.log(shapes.k.shape[1]) + 0.5, jnp.float32)
        return Operands(*arrays, lse, jnp.zeros_like(lse))

    return [draw(key) for key in jax.random.split(jax.random.key(0), DISTINCT_INPUTS)]


@jax.jit
def _unequal_bits(some: Any, others: Any) -> jax.Array:
    bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=jnp.uint16)
    pairs = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    return sum((bits(a) != bits(b)).sum() for a, b in pairs)


def measure(one: Backward, programs: Sequence[Any], rounds: int) -> tuple[list[float], bool]:
    """TFLOP/s of each program, and whether the last one's gradients kept their bits."""
    inputs = _drawn(one.shapes())
    calls: dict[str, Callable[[], Any]] = {
        order: functools.partial(program, inputs)
        for order, program in zip(("usual", "fixed"), programs, strict=True)
        if program is not None
    }
    executions = {name: timing.calibrate(call) for name, call in calls.items()}
    timed = timing.interleaved(calls, executions, rounds=rounds)
    same = True
    if fixed := calls.get("fixed"):
        first = fixed()
        same = all(int(_unequal_bits(first, fixed())) == 0 for _ in range(BITS_CHECKED))
    return [DISTINCT_INPUTS * one.flops / t.seconds / 1e12 for t in timed.values()], same


def _own_name(names: Sequence[str]) -> str:
    """That of the kernel for this device, without what all have in common."""
    return selection.kernel_for(selection.cuda_devices()[0], names).split("_", 3)[3]


def row(one: Backward, speeds: Sequence[float], same: bool) -> str:
    """One line of the table."""
    cell = one.cell
    width = f"{cell.head_dim}" + f", {cell.head_dim_v}" * (cell.head_dim_v != cell.head_dim)
    words = [width, one.group, cell.mask, cell.seqlen, f"{speeds[0]:.0f}"]
    words.append(_own_name(one.kernels(False)))
    if len(speeds) == 1:
        words += ["-", "none: portable", "-"]
    else:
        share = f"{speeds[1] / speeds[0]:.2f}" if same else "BITS DIFFER"
        words += [f"{speeds[1]:.0f}", _own_name(one.kernels(True)), share]
    return f"| {' | '.join(map(str, words))} |\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.deterministic")
    add = result.add_argument
    add("--head-dim", nargs="+", type=head_dims, default=[64, 128, (192, 128), 256])
    add("--seqlens", nargs="+", type=int, default=list(SEQLENS))
    add("--groups", nargs="+", type=int, default=[1, 4], help="query heads a key head")
    add("--tokens", type=int, default=TOKENS)
    add("--hidden", type=int, default=HIDDEN, help="heads times head dim of values")
    add("--rounds", type=int, default=3)
    add("--markdown", type=Path)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if bits differ that must not."""
    arguments = parser().parse_args(argv)
    cells = grid(
        head_dims=arguments.head_dim,
        seqlens=arguments.seqlens,
        masks=MASKS,
        passes=("fwdbwd",),
        tokens=arguments.tokens,
        hidden=arguments.hidden,
    )
    found = environment.describe()
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    command = environment.command(sys.argv[1:] if argv is None else argv, "deterministic")
    page = (
        f"# Gradients in a fixed order on {found['gpu']}\n\n"
        f"Written by `{command}`.\nTFLOP/s of the backward alone, its kernels together, bf16, "
        f"{arguments.tokens} tokens, hidden {arguments.hidden}; median of {arguments.rounds}\n"
        f"interleaved samples. In a fixed order, {BITS_CHECKED} executions gave the same bits.\n"
        f"Driver {found['driver']}, {packages}.\n\n" + HEADER
    )
    print(page, end="", flush=True)
    problems = [Backward(cell, g) for g, cell in itertools.product(arguments.groups, cells)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(
            pool.map(lambda one: [one.compiled(fixed) for fixed in (False, True)], problems)
        )
    failed = False
    for one, programs in zip(problems, compiled, strict=True):
        speeds, same = measure(one, programs, arguments.rounds)
        failed |= not same
        line = row(one, speeds, same)
        print(line, end="", flush=True)
        page += line
        if arguments.markdown:
            arguments.markdown.write_text(page)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
