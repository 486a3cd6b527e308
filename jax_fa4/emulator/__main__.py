"""`python -m jax_fa4.emulator`: list the kernels, run one on random inputs, or count its parts."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import jax_fa4
from jax_fa4 import emulator, ffi
from jax_fa4.emulator.settings import COMPLETIONS, SPECIALS
from jax_fa4.ops import reference
from jax_fa4.ops.band import Band
from jax_fa4.variants import DType, ForwardVariant, Variant, parse

_DTYPES = {DType.BF16: "bfloat16", DType.FP16: "float16"}

# A PTX instruction at the beginning of a line: a guard perhaps, then the opcode with its modifiers.
_INSTRUCTION = re.compile(r"^[ \t]*(?:@!?%?\w+[ \t]+)?([a-z]\w*(?:(?:\.|::)\w+)*)(?=[ \t;])", re.M)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do it; the exit code is 0 if nothing was found."""
    options = _parser().parse_args(arguments)
    if options.command == "list":
        print(*sorted(name for name in ffi.built_variants() if _runs(parse(name))), sep="\n")
        return 0
    try:
        variant = _forward_variant(options.variant)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return report(variant) if options.command == "report" else run(variant, options)


def report(variant: Variant) -> int:
    """Print how often each instruction stands in the kernel's PTX."""
    counts = Counter(_INSTRUCTION.findall(emulator.ptx_of(variant.name)))
    print(f"{variant.name}: {sum(counts.values())} instructions, {len(counts)} different ones")
    for opcode, count in counts.most_common():
        print(f"{count:6d}  {opcode}")
    return 0


def run(variant: ForwardVariant, options: argparse.Namespace) -> int:
    """Run the kernel on random inputs, beside the definition in float32; print the verdict."""
    batch, queries, keys, heads, key_heads, width = options.shape
    if width > variant.head_dim:
        print(f"{variant.name} takes head dims up to {variant.head_dim}", file=sys.stderr)
        return 2
    generator = np.random.default_rng(options.seed)
    shapes = [(batch, queries, heads, width), *[(batch, keys, key_heads, width)] * 2]
    dtype = _DTYPES[variant.dtype]
    q, k, v = (jnp.asarray(generator.standard_normal(shape), dtype) for shape in shapes)
    print(f"{variant.name} on query {shapes[0]}, key and value {shapes[1]}", flush=True)
    start = time.perf_counter()
    try:
        with emulator.options(
            seed=options.seed, completion=options.completion, special=options.special
        ):
            found, _ = jax.block_until_ready(
                jax_fa4.flash_attention(
                    q, k, v, causal=options.causal, return_lse=True, implementation="emulator"
                )
            )
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        print(f"{error}\nverdict: FAILED")
        return 1
    print(f"{time.perf_counter() - start:.2f} s")
    band = Band.make(
        queries, keys, causal=options.causal, window=(None, None), alignment="bottom_right"
    )
    exact, _ = reference.attention(
        *(x.astype(jnp.float32) for x in (q, k, v)), softmax_scale=width**-0.5, band=band
    )
    plain, _ = reference.attention(q, k, v, softmax_scale=width**-0.5, band=band)
    ulp = float(np.spacing(np.asarray(jnp.abs(exact).max(), jnp.dtype(dtype))))
    allowed = 2 * _difference(plain, exact) + ulp
    error_found = _difference(found, exact)
    passed = error_found <= allowed
    print(f"largest error {error_found:.3g}, allowed {allowed:.3g}")
    print(f"verdict: {'OK' if passed else 'FAILED'}")
    return 0 if passed else 1


def _difference(found: jax.Array, exact: jax.Array) -> float:
    """The largest; NaN if there is one, which numpy's max promises and XLA's does not."""
    return float(np.max(np.abs(np.asarray(found.astype(jnp.float32)) - np.asarray(exact))))


def _runs(variant: Variant) -> bool:
    return isinstance(variant, ForwardVariant) and variant.arch is emulator.ARCH


def _forward_variant(name: str) -> ForwardVariant:
    """A forward kernel of this build that the emulator runs; ValueError otherwise."""
    variant = parse(name)
    if not isinstance(variant, ForwardVariant) or not _runs(variant):
        raise ValueError(f"{name} is not a forward kernel that the emulator runs; see `list`")
    if name not in ffi.built_variants() or not emulator.has_ptx(name):
        raise ValueError(f"this build of jax_fa4 lacks the kernel {name}")
    return variant


def _shape(word: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in word.split(","))
    if len(sizes) != 6 or min(sizes) < 1 or sizes[3] % sizes[4]:
        raise argparse.ArgumentTypeError(
            f"{word}: expected batch,queries,keys,heads,key_heads,head_dim, all at least 1, heads "
            "a multiple of key_heads"
        )
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jax_fa4.emulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the kernels that the emulator runs")
    counted = commands.add_parser("report", help="how often each instruction stands in a kernel")
    counted.add_argument("variant", help="fwd_sm90_bf16_d128, say")
    running = commands.add_parser("run", help="run a kernel on random inputs")
    running.add_argument("variant", help="fwd_sm90_bf16_d128, say")
    running.add_argument(
        "--shape",
        type=_shape,
        default=(1, 128, 128, 1, 1, 64),
        help="batch,queries,keys,heads,key_heads,head_dim (default: 1,128,128,1,1,64)",
    )
    running.add_argument("--causal", action="store_true", help="aligned at the ends")
    running.add_argument("--seed", type=int, default=0, help="of inputs and order of events")
    running.add_argument("--completion", choices=COMPLETIONS, default="random")
    running.add_argument("--special", choices=SPECIALS, default="rounded")
    return parser


if __name__ == "__main__":
    sys.exit(main())
