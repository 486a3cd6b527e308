"""Runs a family's backward kernels on many problems under many schedules; writes a page.

    python tests/emulator/prove_backward.py --arch sm100 --problems 200 --seeds 20

As prove_forward.py: every run has all checks on, and every schedule runs at both levels. Every run
is held to the definition in float64 by the one rule of tolerances; dk and dv, and with a
deterministic kernel dq, to the bits of the first whose products round alike. Half of the problems
take that kernel. Exits non-zero if anything was found.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from prove_forward import COMPLETIONS, HERE, LEVELS, Outcome, find_rooms
from prove_forward import problems as forward_problems

EXACT_EVERY = 10  # schedules; to round as tensor cores do takes most of a run's time


def problems(count: int, widest: int) -> list:
    """(case, dtype, whether deterministic): those of the forward that are not too wide."""
    find_rooms()
    from jax_fa4.testing import inputs

    # A block of queries for whose turns more CTAs do not wait than a block has rows.
    long_keys = inputs.Case(
        name="long-keys",
        query_length=256,
        key_length=17408,
        batch=1,
        heads=1,
        heads_kv=1,
        head_dim=64,
        window=(100, 0),
    )
    drawn = [
        (case, dtype)
        for case, dtype, _ in forward_problems(3 * count, ("bfloat16", "float16"))
        if max(case.head_dim, case.head_dim_v) <= widest
    ]
    found = [(*problem, number % 4 in (1, 2)) for number, problem in enumerate(drawn[: count - 1])]
    return [*found, (long_keys, "bfloat16", True)]


def _words(case, dtype: str, deterministic: bool) -> str:
    mask = f"window {case.window}" + (f", causal {case.alignment}" if case.causal else "")
    return (
        f"{case.name}: {case.batch} x {case.heads}/{case.heads_kv} heads, {case.query_length} x "
        f"{case.key_length}, D = {case.head_dim}, {case.head_dim_v}, {dtype}, {mask}, "
        f"growth {case.growth:g}" + ", deterministic" * deterministic
    )


def prove(problem, arch: str, seeds: int) -> Outcome:
    """All schedules of one problem."""
    import jax
    import numpy as np
    from calls import emulated

    import jax_fa4
    from jax_fa4.testing import expected, inputs, tolerances

    case, dtype, deterministic = problem
    words, x = _words(*problem), inputs.make(case, dtype)
    wanted = expected.both(x, case, gradients=True)
    same = ("dq", "dk", "dv") if deterministic else ("dk", "dv")
    first: dict = {}
    for run in range(seeds * len(LEVELS)):
        seed, level = run % seeds, LEVELS[run // seeds]
        how = {"seed": seed, "completion": COMPLETIONS[seed % 3], "arch": arch, "level": level}
        how["exact"] = exact = seed % EXACT_EVERY == 0
        call = functools.partial(emulated(case), deterministic=deterministic)
        try:
            with jax_fa4.emulator.options(**how):
                found = expected.results(call, x, gradients=True)
            tolerances.check(found, *wanted)
        except (AssertionError, jax.errors.JaxRuntimeError) as error:
            return Outcome(words, run, f"{level}, seed {seed}: {error}")
        first.setdefault(exact, found)
        if any(not np.array_equal(found[name], first[exact][name]) for name in same):
            return Outcome(words, run, f"{level}, seed {seed}: other bits than at first")
    return Outcome(words, seeds * len(LEVELS), "")


def page(command: str, outcomes: list[Outcome], seconds: float, workers: int) -> str:
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    runs = max(outcome.runs for outcome in outcomes)
    lines = [
        "# The backward on the emulator",
        "",
        f"Written by `tests/emulator/prove_backward.py {command}`: {len(outcomes)} problems, "
        f"{runs // len(LEVELS)} schedules each",
        "at level `ptx` and as many at `hardware`, forward and backward kernels, all checks on,",
        f"products rounded as tensor cores do in every {EXACT_EVERY}th and plain float32 sums in",
        f"the others; {sum(o.runs for o in outcomes)} runs in",
        f"{seconds:.0f} s with {workers} processes. {len(wrong)} problems with a finding,",
        "a result out of tolerance, or bits of dk, dv (deterministic: of dq, too) that depend on "
        "the schedule.",
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
    parser.add_argument("--widest", type=int, default=128, help="head dim that has a kernel")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "PROOF_BACKWARD.md")
    options = parser.parse_args()
    command = f"--arch {options.arch} --problems {options.problems} --seeds {options.seeds}"
    start = time.monotonic()
    outcomes = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, find_rooms) as pool:
        work = problems(options.problems, options.widest)
        results = pool.map(prove, work, [options.arch] * len(work), [options.seeds] * len(work))
        for number, outcome in enumerate(results, 1):
            outcomes.append(outcome)
            print(f"[{number}/{len(work)}] {outcome.words}: {outcome.wrong or 'right'}", flush=True)
            # At once: it is true of what has run, should the rest be cut short.
            text = page(command, outcomes, time.monotonic() - start, options.workers)
            options.output.write_text(text)
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
