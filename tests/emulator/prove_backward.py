"""Runs a family's backward kernels on many problems under many schedules; writes a page.

    python tests/emulator/prove_backward.py --arch sm100 --problems 150 --seeds 20
    ... --form pair --output tests/emulator/PROOF_BACKWARD_PAIR.md  # of kernels that have the form

As prove_forward.py: every run has all checks on, and every schedule runs at both levels. Every run
is held to the definition in float64 by the one rule of tolerances; dk and dv, and with a
deterministic kernel dq, to the bits of the first whose products round alike. Half of the problems
take that kernel. Exits non-zero if anything was found.
"""

from __future__ import annotations

import argparse
import collections
import functools
import multiprocessing
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from prove_forward import COMPLETIONS, HERE, LEVELS, Outcome, find_rooms
from prove_forward import problems as forward_problems

EXACT_EVERY = 10  # schedules; to round as tensor cores do takes most of a run's time


def problems(count: int, widest: int, arch: str, form: str | None) -> list:
    """(case, dtype, whether deterministic): those of the forward whose kernels are not too wide.

    With `form`: those of which it has a kernel.
    """
    find_rooms()
    from jax_fa4.testing import inputs

    # A block of queries for whose turns more CTAs do not wait than a block has rows.
    long_keys = inputs.Case(
        name="long-keys",
        query_length=256,
        key_length=34816 if form else 17408,
        batch=1,
        heads=1,
        heads_kv=1,
        head_dim=128 if form else 64,
        window=(100, 0),
    )
    found: list = []
    many = (20 if form else 3) * count
    for case, dtype, _ in forward_problems(many, ("bfloat16", "float16")):
        problem = (case, dtype, len(found) % 4 in (1, 2))
        if max(case.head_dim, case.head_dim_v) <= widest and _has(problem, arch, form):
            found.append(problem)
    return [*found[: count - 1], (long_keys, "bfloat16", True)]


def _has(problem, arch: str, form: str | None) -> bool:
    """Whether there is a main kernel of this form for it."""
    from jax_fa4.variants.problem import Problem
    from jax_fa4.variants.select import backward_variants

    case, dtype, deterministic = problem
    variants = backward_variants(
        Problem(
            dtype=dtype,
            head_dim=case.head_dim,
            head_dim_v=case.head_dim_v,
            softmax_scale=case.scale,
            deterministic=deterministic,
        )
    )
    return any(v.arch.value == arch and form in (None, v.form.value) for v in variants)


def _words(case, dtype: str, deterministic: bool) -> str:
    mask = f"window {case.window}" + (f", causal {case.alignment}" if case.causal else "")
    return (
        f"{case.name}: {case.batch} x {case.heads}/{case.heads_kv} heads, {case.query_length} x "
        f"{case.key_length}, D = {case.head_dim}, {case.head_dim_v}, {dtype}, {mask}, "
        f"growth {case.growth:g}" + ", deterministic" * deterministic
    )


def prove(problem, arch: str, seeds: int, form: str | None) -> Outcome:
    """All schedules of one problem; `form`: of the kernels, where they have it, whatever pays."""
    import jax
    import numpy as np
    from calls import emulated, forced

    import jax_fa4
    from jax_fa4.testing import expected, inputs, tolerances
    from jax_fa4.variants import Form

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
            with jax_fa4.emulator.options(**how), forced(Form(form) if form else None) as taken:
                found = expected.results(call, x, gradients=True)
            tolerances.check(found, *wanted)
        except (AssertionError, jax.errors.JaxRuntimeError) as error:
            return Outcome(words, run, f"{level}, seed {seed}: {error}")
        first.setdefault(exact, found)
        if any(not np.array_equal(found[name], first[exact][name]) for name in same):
            return Outcome(words, run, f"{level}, seed {seed}: other bits than at first")
    (kernel,) = (name for name in taken if name.startswith("bwd_"))
    return Outcome(f"{words}: {kernel}", seeds * len(LEVELS), "")


def by_kernel(outcomes: list[Outcome]) -> list[str]:
    """How many problems each main kernel ran, of those that came out right."""
    kernels = (outcome.words.split(": ")[-1] for outcome in outcomes if not outcome.wrong)
    counts = sorted(collections.Counter(kernels).items())
    words = ", ".join(f"{count} `{kernel}`" for kernel, count in counts)
    return textwrap.wrap(f"Problems by main kernel: {words}.", 100)


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
        *by_kernel(outcomes),
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
    parser.add_argument("--widest", type=int, default=256, help="head dim that has a kernel")
    parser.add_argument("--form", help="of the kernels: pair")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "PROOF_BACKWARD.md")
    options = parser.parse_args()
    command = f"--arch {options.arch} --problems {options.problems} --seeds {options.seeds}"
    command += f" --form {options.form}" if options.form else ""
    start = time.monotonic()
    outcomes = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, find_rooms) as pool:
        work = problems(options.problems, options.widest, options.arch, options.form)
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
