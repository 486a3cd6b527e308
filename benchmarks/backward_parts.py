"""Microseconds of each of the backward's three kernels, by JAX's profiler.

    python -m benchmarks.backward_parts --head-dim 64 128 --seqlens 512 8192

Cells are those of `benchmarks.attention` (bf16, 16384 tokens, hidden 2048); `--batch` and `--heads`
give other sizes, such as few queries. Each kernel's figure is the median over the executions, which
take two sets of inputs in turn.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

import jax_fa4
from benchmarks.cells import HIDDEN, TOKENS

EXECUTIONS = 20
# What the compiler's names of the kernels hold, from the names of their modules.
PARTS = ("backward_preprocess", "backward", "backward_postprocess")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.backward_parts")
    result.add_argument("--head-dim", type=int, nargs="+", default=[64, 128])
    result.add_argument("--seqlens", type=int, nargs="+", default=[512, 8192], help="of queries")
    result.add_argument(
        "--keys", type=int, help="length of keys, the same as of queries unless said"
    )
    result.add_argument("--batch", type=int, help=f"default: {TOKENS} tokens")
    result.add_argument("--heads", type=int, help=f"default: {HIDDEN} columns")
    result.add_argument("--causal", action="store_true")
    return result


def part_of(kernel: str) -> str | None:
    """Which of the three a kernel is, by its name; None if it is none of them."""
    if not kernel.startswith("kernel_cutlass") or "jax_fa4" not in kernel:
        return None
    return max((part for part in PARTS if part in kernel), key=len, default=None)


def durations(trace: dict[str, Any]) -> dict[str, list[float]]:
    """Microseconds of each kernel in a trace, in the order of their starts."""
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    events: Iterable[dict[str, Any]] = trace["traceEvents"]
    for event in sorted(events, key=lambda event: event.get("ts", 0)):
        part = part_of(event.get("name", ""))
        if event.get("ph") == "X" and part is not None:
            taken[part].append(event["dur"])
    return taken


def profiled(run: Any, inputs: Sequence[Any]) -> dict[str, list[float]]:
    """The kernels' durations over `EXECUTIONS` calls."""
    for arrays in inputs:
        jax.block_until_ready(run(*arrays))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for execution in range(EXECUTIONS):
                result = run(*inputs[execution % len(inputs)])
            jax.block_until_ready(result)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        return durations(json.loads(gzip.decompress(path.read_bytes())))


def make_inputs(head_dim: int, length: int, arguments: argparse.Namespace) -> list[Any]:
    """Two sets of q, k, v and dout."""
    batch = arguments.batch or TOKENS // length
    heads = arguments.heads or HIDDEN // head_dim
    keys = arguments.keys or length
    shapes = [(batch, n, heads, head_dim) for n in (length, keys, keys, length)]
    return [
        tuple(
            jax.random.normal(jax.random.key(4 * seed + i), shape, jnp.bfloat16)
            for i, shape in enumerate(shapes)
        )
        for seed in range(2)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    @jax.jit
    def pull(q: Any, k: Any, v: Any, dout: Any) -> Any:
        options = {"causal": arguments.causal, "implementation": "fa4"}
        return jax.vjp(lambda *qkv: jax_fa4.flash_attention(*qkv, **options), q, k, v)[1](dout)

    print("| D | Sq | Sk | B | H | preprocess | main | postprocess | first and last together |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for head_dim, length in itertools.product(arguments.head_dim, arguments.seqlens):
        inputs = make_inputs(head_dim, length, arguments)
        # Where the main kernel writes dq, none comes after it.
        medians = [statistics.median(x or [0.0]) for x in profiled(pull, inputs).values()]
        (batch, _, heads, _), keys = inputs[0][0].shape, inputs[0][1].shape[1]
        share = (medians[0] + medians[2]) / sum(medians)
        cells = [head_dim, length, keys, batch, heads, *(f"{x:.1f}" for x in medians)]
        print(f"| {' | '.join(map(str, cells))} | {share:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
