"""Packed documents: what a call costs that knows them, beside calls that do not.

    python -m benchmarks.packed_timing --markdown benchmarks/results/h100-packed.md

A sequence holds documents one after the other; each attends itself alone, causally. Contestants, in
one jit of four distinct inputs each, samples in turns:

    bounded    the bounded kernel, told the documents (segment ids): what a packed call runs
    whole      the usual kernel, as if the sequence were one document: an upper limit of the work
    apart      the usual kernel, a document a batch element: a lower limit, of equal documents only
    cudnn      the same by jax.nn.dot_product_attention; forward alone, as the next two
    masked     cuDNN by jax.nn.dot_product_attention told by a boolean mask: it has no other way
    tokamax    told by a boolean mask, its public way

TFLOP/s count the documents' products alone, whatever a contestant computes. Bounds and masks are
arguments of the programs: tables of bounds are made in them, and a bias of the mask, once each.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import environment
from benchmarks.measure import DISTINCT_INPUTS
from jax_fa4.ops import kernel_calls, selection
from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.testing import timing
from jax_fa4.variants.problem import Problem

HEADER = """\
| head dim | pass | S | documents | bounded | whole | apart | cudnn | masked | tokamax |
| ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""
CONTESTANTS = ("bounded", "whole", "apart", "cudnn", "masked", "tokamax")
PASSES = ("fwd", "bwd")
Arrays = tuple[jax.Array, ...]
# A function of what all inputs share, and of one input; and what they share.
Contestant = tuple[Callable[..., Any], Arrays]


@dataclass(frozen=True)
class Packed:
    """One cell: `documents` to a sequence, of equal lengths or of lengths drawn."""

    head_dim: int
    seqlen: int
    documents: int
    equal: bool
    tokens: int
    hidden: int
    backward: bool

    @property
    def lengths(self) -> np.ndarray:
        """Of the documents of a sequence, each at least 1."""
        if self.equal:
            return np.full(self.documents, self.seqlen // self.documents)
        random = np.random.default_rng(self.documents)
        cuts = random.choice(np.arange(1, self.seqlen), self.documents - 1, replace=False)
        return np.diff([0, *np.sort(cuts), self.seqlen])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of Q, K and V alike."""
        heads = self.hidden // self.head_dim
        return self.tokens // self.seqlen, self.seqlen, heads, self.head_dim

    @property
    def flops(self) -> float:
        """Two products of the forward, or the backward's five, over all pairs that are seen."""
        batch, _, heads, width = self.shape
        pairs = float((self.lengths * (self.lengths + 1) / 2).sum())
        return (5 if self.backward else 2) * 2 * pairs * width * heads * batch

    def bounds(self) -> KeyBounds:
        ids = np.repeat(np.arange(self.documents), self.lengths)
        first = np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        tables = (first, np.arange(self.seqlen), ids, ids)
        return KeyBounds(
            *(jnp.broadcast_to(jnp.asarray(x, jnp.int32), self.shape[:2]) for x in tables)
        )


def _path(cell: Packed, *, bounded: bool) -> selection.Path:
    scale = cell.head_dim**-0.5
    problem = Problem(
        dtype="bfloat16", head_dim=cell.head_dim, softmax_scale=scale, has_bounds=bounded
    )
    return selection.select(problem, "fa4")


def _by_kernels(cell: Packed, band: Band, bounds: KeyBounds | None = None) -> Contestant:
    """The forward call, or the backward call on what it left."""
    path = _path(cell, bounded=bounds is not None)
    options: dict[str, Any] = {"softmax_scale": cell.head_dim**-0.5, "band": band}

    def run(bounds: Arrays, q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> Any:
        if not cell.backward:
            return kernel_calls.forward(path, q, k, v, *bounds, **options)
        return kernel_calls.backward(path, q, k, v, *rest, *bounds, **options)

    return run, tuple(bounds or ())


def _causal(length: int) -> Band:
    return Band.make(length, length, causal=True, window=(None, None), alignment="top_left")


def _apart(cell: Packed, contestant: Contestant) -> Contestant:
    """The same with a document a batch element; to move lse's rows apart counts as work."""
    run, shared = contestant

    def split(x: jax.Array) -> jax.Array:
        batch, _, heads, width = cell.shape
        if x.ndim == 4:
            return x.reshape(batch * cell.documents, -1, heads, width)
        by_document = x.reshape(batch, heads, cell.documents, -1).swapaxes(1, 2)
        return by_document.reshape(batch * cell.documents, heads, -1)

    return lambda shared, *arrays: run(shared, *map(split, arrays)), shared


def _cudnn(_: Arrays, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def _masked(mask: Arrays, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, mask=mask[0], implementation="cudnn")


def _tokamax(mask: Arrays, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    import tokamax

    return tokamax.dot_product_attention(q, k, v, mask=mask[0])


def contestants(cell: Packed) -> dict[str, Callable[[], Contestant]]:
    """What makes each call; it may raise."""
    found: dict[str, Callable[[], Contestant]] = {
        "bounded": lambda: _by_kernels(cell, FULL, cell.bounds()),
        "whole": lambda: _by_kernels(cell, _causal(cell.seqlen)),
    }
    if cell.equal:
        length = cell.seqlen // cell.documents
        found["apart"] = lambda: _apart(cell, _by_kernels(cell, _causal(length)))
    if not cell.backward:
        if cell.equal:
            found["cudnn"] = lambda: _apart(cell, (_cudnn, ()))
        for name, run in (("masked", _masked), ("tokamax", _tokamax)):
            found[name] = lambda run=run: (run, (cell.bounds().sees()[:, None],))
    return found


def draw(cell: Packed) -> list[Arrays]:
    """q, k, v, and for the backward what a forward told the documents left, with cotangents."""
    run, bounds = _by_kernels(replace(cell, backward=False), FULL, cell.bounds())
    forward = jax.jit(functools.partial(run, bounds))
    inputs = []
    for key in jax.random.split(jax.random.key(0), DISTINCT_INPUTS):
        q, k, v, dout = (
            jax.random.normal(one, cell.shape, jnp.bfloat16) for one in jax.random.split(key, 4)
        )
        rest: Arrays = ()
        if cell.backward:
            out, lse = forward(q, k, v)
            rest = (out, lse, dout, jnp.zeros_like(lse))
        inputs.append((q, k, v, *rest))
    return inputs


def _program(run: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(lambda shared, inputs: [run(shared, *one) for one in inputs])


def measure(cell: Packed, rounds: int) -> dict[str, str]:
    """TFLOP/s of each contestant, or why it has none."""
    inputs, words = draw(cell), {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, make in contestants(cell).items():
        try:
            run, shared = make()
            calls[name] = functools.partial(_program(run), shared, inputs)
            jax.block_until_ready(calls[name]())
        except Exception as error:  # a contestant may raise anything
            calls.pop(name, None)
            words[name] = type(error).__name__
            print(f"{name}: {str(error)[:500]}", file=sys.stderr)
    executions = {name: timing.calibrate(call) for name, call in calls.items()}
    for name, timed in timing.interleaved(calls, executions, rounds=rounds).items():
        words[name] = f"{DISTINCT_INPUTS * cell.flops / timed.seconds / 1e12:.0f}"
    return words


def row(cell: Packed, words: dict[str, str]) -> str:
    """One line of the table."""
    found = [words.get(name, "-") for name in CONTESTANTS]
    documents = f"{cell.documents} {'equal' if cell.equal else 'drawn'}"
    columns = [cell.head_dim, PASSES[cell.backward], cell.seqlen, documents, *found]
    return f"| {' | '.join(map(str, columns))} |\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.packed_timing")
    add = result.add_argument
    add("--head-dim", nargs="+", type=int, default=[64, 128, 256])
    add("--seqlens", nargs="+", type=int, default=[8192])
    add("--documents", nargs="+", type=int, default=[1, 4, 16, 64])
    add("--tokens", type=int, default=16384)
    add("--hidden", type=int, default=2048, help="heads times head dim")
    add("--rounds", type=int, default=3)
    add("--markdown", type=Path)
    return result


def chosen(arguments: argparse.Namespace) -> list[Packed]:
    """The cells that the command line asks for; one document has but one length."""
    every = itertools.product(
        arguments.head_dim, (False, True), arguments.seqlens, arguments.documents, (True, False)
    )
    return [
        Packed(width, length, documents, equal, arguments.tokens, arguments.hidden, backward)
        for width, backward, length, documents, equal in every
        if equal or documents > 1
    ]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    found = environment.describe()
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    command = environment.command(sys.argv[1:] if argv is None else argv, "packed_timing")
    page = (
        f"# Packed documents on {found['gpu']}\n\nWritten by `{command}`.\n"
        f"TFLOP/s of the documents' own products, causal, bf16, {arguments.tokens} tokens, hidden "
        f"{arguments.hidden}; median of {arguments.rounds}\ninterleaved samples. Backward: the "
        f"call alone.\nDriver {found['driver']}, {packages}.\n\n" + HEADER
    )
    print(page, end="", flush=True)
    for cell in chosen(arguments):
        line = row(cell, measure(cell, arguments.rounds))
        print(line, end="", flush=True)
        page += line
        if arguments.markdown:
            arguments.markdown.write_text(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
