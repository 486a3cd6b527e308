"""Runs a family's forward kernels on many problems under many schedules; writes PROOF.md.

    python tests/emulator/prove_forward.py --arch sm100 --problems 200 --seeds 20
    ... --dtypes float8_e4m3fn --output tests/emulator/PROOF_E4M3.md
    ... --form dynamic --output dynamic.md      # of kernels that have the form; others as usual

Every run has all checks on, and every schedule runs at both levels. The first run of a problem is
held to the definition in float64 by the one rule of tolerances, every other to the first one's
bits. Exits non-zero if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
LEVELS = ("ptx", "hardware")
COMPLETIONS = ("random", "earliest", "latest")
# Around the tiles of 64, 128 and 256 rows and the blocks of keys, and others.
LENGTHS = (1, 2, 17, 63, 64, 65, 113, 127, 128, 129, 200, 239, 255, 256, 257, 300, 384, 450)
HEAD_DIMS = (8, 16, 32, 40, 63, 64, 72, 80, 96, 104, 120, 128, 136, 160, 192, 200, 256)
# Of the values; 0 is the same as the queries and keys.
VALUE_HEAD_DIMS = (0, 0, 0, 0, 0, 8, 40, 64, 96, 128, 136, 256)
HEADS = ((1, 1), (2, 2), (2, 1), (3, 1), (4, 2), (6, 2))
WINDOWS = (
    (None, None),
    (None, None),
    (0, 0),
    (37, 11),
    (130, 0),
    (None, 5),
    (64, None),
    (300, 300),
)
FP8, WIDEST_FP8 = "float8_e4m3fn", 128
MOST_SCORES = 300_000  # of a problem, all heads together


@dataclass(frozen=True)
class Outcome:
    """What came of one problem: its words, runs that were right, and the first that was not."""

    words: str
    runs: int
    wrong: str


def find_rooms() -> None:
    """The installed package with the rooms that wheels leave out, as tests/conftest.py has it."""
    import jax_fa4

    sys.path.append(str(HERE))
    package = str(HERE.parents[1] / "jax_fa4")
    if package not in jax_fa4.__path__:
        jax_fa4.__path__.append(package)


def _taken(case, dtype: str) -> bool:
    """Whether there is a kernel for it."""
    return dtype != FP8 or max(case.head_dim, case.head_dim_v) <= WIDEST_FP8


def problems(count: int, dtypes: tuple[str, ...]) -> list:
    """(case, dtype, SMs): the shared list, each in all precisions, then random ones."""
    find_rooms()
    from jax_fa4.testing import inputs

    found = [
        (replace(case, batch=1), dtype, 132)
        for case, dtype in itertools.product(inputs.CASES, dtypes)
        if "long" not in case.tags and _taken(case, dtype)
    ]
    draw = random.Random(0)
    while len(found) < count:
        heads, heads_kv = draw.choice(HEADS)
        case = inputs.Case(
            name=f"random-{len(found)}",
            query_length=draw.choice(LENGTHS),
            key_length=draw.choice(LENGTHS),
            batch=draw.choice((1, 1, 2)),
            heads=heads,
            heads_kv=heads_kv,
            head_dim=draw.choice(HEAD_DIMS),
            head_dim_v=draw.choice(VALUE_HEAD_DIMS),
            causal=draw.random() < 0.4,
            window=draw.choice(WINDOWS),
            alignment=draw.choice(("bottom_right", "top_left")),
            growth=draw.choice((1.0, 1.0, 16.0)),
        )
        if case.batch * heads * case.query_length * case.key_length > MOST_SCORES:
            continue
        dtype, sms = draw.choice(dtypes), draw.choice((1, 3, 132))
        if _taken(case, dtype):
            found.append((case, dtype, sms))
    return found[:count]


def _words(case, dtype: str, sms: int) -> str:
    mask = f"window {case.window}" + (f", causal {case.alignment}" if case.causal else "")
    return (
        f"{case.name}: {case.batch} x {case.heads}/{case.heads_kv} heads, {case.query_length} x "
        f"{case.key_length}, D = {case.head_dim}, {case.head_dim_v}, {dtype}, {mask}, "
        f"growth {case.growth:g}, {sms} SMs"
    )


def prove(problem, arch: str, seeds: int, form: str | None) -> Outcome:
    """All schedules of one problem; `form`: of the kernel, where it has it, whatever pays."""
    import jax
    import numpy as np
    from calls import emulated, emulated_fp8, forced

    import jax_fa4
    from jax_fa4.testing import expected, inputs, tolerances
    from jax_fa4.variants import Form

    case, dtype, sms = problem
    chosen = contextlib.nullcontext if form is None else functools.partial(forced, Form(form))
    call, descales = emulated, ()
    if dtype == FP8:
        # The only alignment that the call has; and 448 ends e4m3.
        case = replace(case, alignment="bottom_right", growth=min(case.growth, 16.0))
        call, descales = emulated_fp8, inputs.make_descales(case)
    words = _words(case, dtype, sms)
    x = inputs.make(case, dtype)
    first = None
    for run in range(seeds * len(LEVELS)):
        seed, level = run % seeds, LEVELS[run // seeds]
        how = {"seed": seed, "completion": COMPLETIONS[seed % 3], "sm_count": sms, "arch": arch}
        how["level"] = level
        try:
            with jax_fa4.emulator.options(**how), chosen():
                out, lse = jax.jit(lambda *operands: call(case)(*operands))(*x[:3], *descales)
            found = {"out": np.asarray(out), "lse": np.asarray(lse)}
            if first is None:
                first = found
                tolerances.check(found, *expected.both(x, case, descales=descales or None))
            elif any(found[name].tobytes() != first[name].tobytes() for name in found):
                return Outcome(words, run, f"{level}, seed {seed}: other bits than at first")
        except (AssertionError, jax.errors.JaxRuntimeError) as error:
            return Outcome(words, run, f"{level}, seed {seed}: {error}")
    return Outcome(words, seeds * len(LEVELS), "")


def page(command: str, outcomes: list[Outcome], seconds: float, workers: int) -> str:
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    runs = max(outcome.runs for outcome in outcomes)
    lines = [
        "# The forward on the emulator",
        "",
        f"Written by `tests/emulator/prove_forward.py {command}`: {len(outcomes)} problems, "
        f"{runs // len(LEVELS)} schedules each",
        "at level `ptx` and as many at `hardware`, all checks on, exact products; "
        f"{sum(o.runs for o in outcomes)} runs in",
        f"{seconds:.0f} s with {workers} processes. {len(wrong)} problems with a finding,",
        "a result out of tolerance, or bits that depend on the schedule.",
        "",
        *(f"* WRONG: {outcome.words}: {outcome.wrong.splitlines()[0]}" for outcome in wrong),
        *(f"* {outcome.words}" for outcome in outcomes if not outcome.wrong),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="sm100")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--form", help="of the kernels: pair, splitkeys, dynamic")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "PROOF.md")
    options = parser.parse_args()
    command = f"--arch {options.arch} --dtypes {' '.join(options.dtypes)}"
    command += f" --form {options.form}" if options.form else ""
    start = time.monotonic()
    outcomes = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, find_rooms) as pool:
        work = problems(options.problems, tuple(options.dtypes))
        how = functools.partial(prove, arch=options.arch, seeds=options.seeds, form=options.form)
        results = pool.map(how, work)
        for number, outcome in enumerate(results, 1):
            outcomes.append(outcome)
            print(f"[{number}/{len(work)}] {outcome.words}: {outcome.wrong or 'right'}", flush=True)
            # At once: it is true of what has run, should the rest be cut short.
            text = page(command, outcomes, time.monotonic() - start, options.workers)
            options.output.write_text(text)
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
