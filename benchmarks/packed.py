"""What packed documents cost the bounded kernels, counted on the emulator: pairs and instructions.

    python -m benchmarks.packed --markdown benchmarks/results/packed.md

One head of bfloat16 and as many queries as keys, packed with documents that each see themselves
alone. A pair is a query and a key for which tensor cores made the products, two of the forward and
five of the backward; the visible ones are those of the documents, and all is the square of the
length. Blackwell's backward at head dim 256 makes eight products by design, 1.6 times as many;
Hopper's at 64 and 128 makes one more of a block in each CTA, 1.2 % of the square.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from benchmarks.environment import version
from jax_fa4 import ffi
from jax_fa4.emulator import Recording, one_kernel, record
from jax_fa4.ffi.backward import Operands
from jax_fa4.ops import reference
from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.variants import BackwardVariant, ForwardVariant, parse

LENGTH = 1024
PACKS = (
    (LENGTH,),
    (LENGTH // 2,) * 2,
    (LENGTH // 4,) * 4,
    (LENGTH // 8,) * 8,
    (LENGTH // 16,) * 16,
    (500, 20, 3, 300, 77, 124),
)
PRODUCTS = {ForwardVariant: 2, BackwardVariant: 5}  # of a pair


def kernels() -> list[str]:
    """Bounded kernels of this build that cap nothing, of bfloat16, by default."""
    names = sorted(ffi.built_variants())
    return [n for n in names if n.endswith("_bounded") and "bf16" in n and "_v" not in n]


def bounds_of(documents: Sequence[int], causal: bool) -> KeyBounds:
    """Of one sequence, packed with documents of these lengths."""
    length = sum(documents)
    ids = jnp.asarray(np.repeat(np.arange(len(documents)), documents)[None], jnp.int32)
    band = Band(lower=FULL.lower, upper=0) if causal else FULL
    return KeyBounds.of_band(band, 1, length, length).within_segments(ids, ids)


def run(name: str, bounds: KeyBounds) -> Recording:
    """The launch of a kernel for a sequence."""
    variant = parse(name)
    assert isinstance(variant, ForwardVariant | BackwardVariant)
    generator = np.random.default_rng(0)
    shape = (1, bounds.first.shape[1], 1, variant.head_dim)
    q, k, v, dout = (jnp.asarray(generator.standard_normal(shape), jnp.bfloat16) for _ in range(4))
    scale = variant.head_dim**-0.5
    with jax_fa4.emulator.options(arch=variant.arch.value), record() as recordings:
        if isinstance(variant, ForwardVariant):
            done = one_kernel.forward_bounded(name, q, k, v, bounds, softmax_scale=scale)
        else:
            mask = bounds.sees()[:, None]
            out, lse = reference.attention(q, k, v, softmax_scale=scale, band=FULL, mask=mask)
            operands = Operands(q, k, v, out, dout, lse, jnp.zeros_like(lse))
            done = one_kernel.backward_bounded(name, operands, bounds, softmax_scale=scale)
        jax.block_until_ready(done)
    return recordings[isinstance(variant, BackwardVariant)]


def pairs(recording: Recording, name: str) -> int:
    """Pairs of a query and a key whose products were computed."""
    variant = parse(name)
    assert isinstance(variant, ForwardVariant | BackwardVariant)
    multiplications = sum(
        int(recording.counts[:, i]["amount"].sum())
        for i, line in enumerate(recording.instructions)
        if line.opcode.startswith(("wgmma.mma_async", "tcgen05.mma"))
    )
    return multiplications // (PRODUCTS[type(variant)] * variant.head_dim)


def rows(names: Sequence[str], causal: bool) -> list[str]:
    """The table's lines, kernel by kernel."""
    lines = []
    for name in names:
        whole = None
        for documents in PACKS:
            bounds = bounds_of(documents, causal)
            recording = run(name, bounds)
            instructions = int(recording.counts["warps"].sum())
            whole = whole or instructions
            visible = int(np.asarray(bounds.sees()).sum())
            text = (
                f"{len(documents)} x {documents[0]}"
                if len(set(documents)) == 1
                else " + ".join(map(str, documents))
            )
            lines.append(
                f"| {name} | {text} | {visible / LENGTH**2:.1%} | "
                f"{pairs(recording, name) / LENGTH**2:.1%} | {instructions / whole:.1%} |"
            )
    return lines


def page(names: Sequence[str]) -> str:
    """The page, in Markdown."""
    head = [
        "| kernel | documents | visible pairs | computed pairs | instructions of warps |",
        "|---|---|---|---|---|",
    ]
    text = [
        "# What packed documents cost",
        *(line for line in (__doc__ or "").strip().splitlines()[1:]),
        "",
        f"{LENGTH} queries and keys; pairs as shares of {LENGTH}^2, instructions as shares of one "
        f"document's, as the emulator counts them (jax {version('jax')}).",
    ]
    for causal in (False, True):
        title = "Causal within documents" if causal else "Full within documents"
        text += ["", f"## {title}", *head, *rows(names, causal)]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packed", description=__doc__)
    parser.add_argument("--kernels", nargs="*", help="names (default: the bounded ones of bf16)")
    parser.add_argument("--markdown", type=Path, help="where the page goes (default: printed)")
    options = parser.parse_args()
    text = page(options.kernels or kernels())
    if options.markdown is None:
        print(text, end="")
    else:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
