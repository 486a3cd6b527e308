"""`python -m jax_fa4.emulator`: run a kernel on random inputs, or say what it did there."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jax_fa4 import emulator
from jax_fa4.emulator import timeline
from jax_fa4.emulator.problem import Arrays, Problem, Shape, kernel, kernels, problem
from jax_fa4.emulator.recording import MAX_EVENTS, Recording, record
from jax_fa4.emulator.report import report
from jax_fa4.emulator.settings import COMPLETIONS, LEVELS, SPECIALS


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do it; the exit code is 0 if nothing was found."""
    options = _parser().parse_args(arguments)
    if options.command == "list":
        print(*kernels(), sep="\n")
        return 0
    try:
        if options.command == "trace" and options.output and not timeline.can_draw():
            raise ValueError(timeline.NO_MATPLOTLIB)
        call = problem(
            kernel(options.variant), options.shape, causal=options.causal, seed=options.seed
        )
        return {"run": _run, "report": _report, "trace": _trace}[options.command](call, options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _run(call: Problem, options: argparse.Namespace) -> int:
    """Run the kernel beside the definition in float32; print the verdict."""
    print(f"{options.variant} on {call.words}", flush=True)
    start = time.perf_counter()
    found, error = _call(call, options)
    if found is None:
        print(f"{error}\nverdict: FAILED")
        return 1
    print(f"{time.perf_counter() - start:.2f} s")
    error_found, allowed = call.verdict(found)
    passed = error_found <= allowed
    print(f"largest error {error_found:.3g}, allowed {allowed:.3g}")
    print(f"verdict: {'OK' if passed else 'FAILED'}")
    return 0 if passed else 1


def _call(call: Problem, options: argparse.Namespace) -> tuple[Arrays | None, str]:
    """The kernel's results, or what is wrong."""
    names = ("seed", "completion", "special", "level")
    try:
        settings = {name: getattr(options, name) for name in names}
        with emulator.options(arch=kernel(options.variant).arch.value, **settings):
            return jax.block_until_ready(call.run()), ""
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        return None, str(error)


def _record(call: Problem, options: argparse.Namespace) -> Recording:
    with record(options.events) as recordings:
        _, error = _call(call, options)
    if not recordings:
        raise ValueError(error)
    return recordings[min(call.launch, len(recordings) - 1)]  # fewer if an earlier one failed


def _report(call: Problem, options: argparse.Namespace) -> int:
    """Print what the kernel consists of, as it ran."""
    recording = _record(call, options)
    print(f"on {call.words}\n{report(recording)}")
    return 1 if recording.finding else 0


def _trace(call: Problem, options: argparse.Namespace) -> int:
    """Print the timeline of a CTA's waits, or draw it."""
    recording = _record(call, options)
    if options.output:
        timeline.draw(recording, options.output, options.cta)
        print(f"{options.output}: CTA {options.cta} of {recording.name} on {call.words}")
    else:
        print(timeline.text(recording, options.cta))
    if recording.finding:
        print(recording.finding, file=sys.stderr)
    return 1 if recording.finding else 0


def _shape(word: str) -> Shape:
    try:
        sizes = Shape(*map(int, word.split(",")))
        good = min(vars(sizes).values()) >= 1 and sizes.heads % sizes.key_heads == 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise argparse.ArgumentTypeError(
            f"{word}: expected batch,queries,keys,heads,key_heads,head_dim, all at least 1, heads "
            "a multiple of key_heads"
        )
    return sizes


def _picture(word: str) -> Path:
    path = Path(word)
    if path.suffix not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{word}: expected a name that ends in .png or .svg")
    return path


def _at_least_one(word: str) -> int:
    if int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is below 1")
    return int(word)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jax_fa4.emulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the kernels that the emulator runs")
    _command(commands, "run", "run a kernel on random inputs and compare it with its definition")
    reporting = _command(
        commands, "report", "its instructions, copies, products, waits and findings, counted"
    )
    tracing = _command(commands, "trace", "what each warp of a CTA waited for, step by step")
    tracing.add_argument("--cta", type=int, default=0, help="of the grid (default: 0)")
    tracing.add_argument(
        "--output", type=_picture, help="draw it, as .png or .svg; needs the extra `demo`"
    )
    for command in (reporting, tracing):
        command.add_argument(
            "--events",
            type=_at_least_one,
            default=MAX_EVENTS,
            help="most events to keep, of 56 bytes each (default: %(default)s)",
        )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words)
    parser.add_argument("variant", help="fwd_sm90_bf16_d128, say")
    parser.add_argument(
        "--shape",
        type=_shape,
        default=Shape(1, 128, 128, 1, 1, 64),
        help="batch,queries,keys,heads,key_heads,head_dim (default: 1,128,128,1,1,64)",
    )
    parser.add_argument("--causal", action="store_true", help="aligned at the ends")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and order of events")
    parser.add_argument("--completion", choices=COMPLETIONS, default="random")
    parser.add_argument("--special", choices=SPECIALS, default="rounded")
    parser.add_argument("--level", choices=LEVELS, default="ptx")
    return parser


if __name__ == "__main__":
    sys.exit(main())
