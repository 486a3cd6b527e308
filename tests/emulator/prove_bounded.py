"""Runs a family's bounded kernels on random problems under many schedules; writes a page.

    python tests/emulator/prove_bounded.py --arch sm100 --problems 22 --output \
        tests/emulator/PROOF_BOUNDED.md
    ... --kernels bwd_sm100_bf16_d64_bounded bwd_sm100_fp16_d64_bounded  # of these alone

As prove_backward.py: every run has all checks on, every schedule runs at both levels and on another
number of SMs, and every run is held to the definition in float64 by the one rule of tolerances; all
results but dq where it is a sum in a varying order, to the bits of the first whose products round
alike. Problems go round the head dims that have kernels, with and without a soft cap: `--problems`
of each. Exits non-zero if anything was found.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from prove_backward import EXACT_EVERY, by_kernel
from prove_forward import COMPLETIONS, LEVELS, Outcome, find_rooms

LENGTHS = (1, 2, 7, 17, 33, 63, 64, 65, 113, 127, 128, 129, 200, 255, 256, 257, 300, 384, 450)
TILE, MOST = 128, 8  # a tile of scores has so many rows and keys; tiles of a problem
SMS = (132, 3, 1)


def problems(arch: str, each: int, kernels: list[str] | None) -> list:
    """(case, backward kernel, forward kernel), `each` of every pair of kernels."""
    import numpy as np

    from jax_fa4.variants import CATALOG, BackwardVariant

    found = []
    mains = [
        v
        for v in CATALOG
        if isinstance(v, BackwardVariant) and v.bounded and v.arch.value == arch
        if kernels is None or v.name in kernels
    ]
    random = np.random.default_rng(0)
    for number in range(each * len(mains) // 2):  # both dtypes have the same kernels
        variant = mains[number % len(mains)]
        backward = variant.name
        forward = backward.replace("bwd", "fwd").replace("_pair", "")
        # Soon of all kinds: it is true of what has run, should the rest be cut short.
        found.append((_case(random, number + number // len(mains), variant), backward, forward))
    return found


def _case(random, number: int, variant):
    from jax_fa4.testing.bounded import KINDS, Case

    while True:
        rows, keys, batch = *random.choice(LENGTHS, 2), random.integers(1, 4)
        heads_kv, ratio = random.choice((1, 1, 2)), random.choice((1, 1, 2, 3, 4, 8))
        keys = rows if random.random() < 0.4 else keys
        if batch * heads_kv * ratio * (-rows // TILE) * (-keys // TILE) <= MOST:
            break
    narrower = random.choice((0, 0, 8, 24), 2)
    return Case(
        KINDS[number % len(KINDS)],
        (int(rows), int(keys)),
        (int(variant.head_dim - narrower[0]), int(variant.head_dim_v - narrower[1])),
        heads=(int(heads_kv * ratio), int(heads_kv)),
        batch=int(batch),
        softcap=float(random.choice((1, 5, 30, 50))) if variant.softcap else 0.0,
        peak=float(random.choice((1, 1, 3, 10))),
        seed=int(random.integers(1 << 30)),
    )


def _settings(case, run: int, seeds: int) -> dict:
    """Of run number `run`: all seeds at one level, then at the other."""
    seed = run % seeds
    return {
        "seed": seed,
        "completion": COMPLETIONS[(seed + case.seed) % 3],
        "level": LEVELS[run // seeds],
        "exact": seed % EXACT_EVERY == 0,
        "sm_count": SMS[seed // 3 % 3],
    }


def _results(problem, operands, visible, runs: range, seeds: int) -> list[dict]:
    """What each of these runs gives; one program, which compiles once."""
    import jax
    import numpy as np

    import jax_fa4
    from jax_fa4.emulator import one_kernel

    case, backward, forward = problem
    options = {"softmax_scale": case.scale, "softcap": case.softcap}

    @jax.jit
    def all_runs(operands, visible):
        results = []
        for run in runs:
            with jax_fa4.emulator.options(**_settings(case, run, seeds)):
                out, lse = one_kernel.forward_bounded(forward, *operands[:3], visible, **options)
                found = one_kernel.backward_bounded(backward, operands, visible, **options)[0]
            results.append({"out": out, "lse": lse, **found._asdict()})
        return results

    return jax.tree.map(np.asarray, all_runs(operands, visible))


def prove(problem, seeds: int) -> Outcome:
    """All schedules of one problem."""
    import jax
    import jax.numpy as jnp

    from jax_fa4.testing.bounded import definition, make

    case, backward, _ = problem
    words = f"{case}: {backward}"
    operands, visible = make(case, jnp.float16 if "fp16" in backward else jnp.bfloat16)
    wanted = [definition(case, operands, visible, exact=exact) for exact in (True, False)]
    found: list[dict] = []
    try:
        for begin in range(0, seeds * len(LEVELS), seeds):
            found += _results(problem, operands, visible, range(begin, begin + seeds), seeds)
    except jax.errors.JaxRuntimeError as error:
        return Outcome(words, len(found), f"from run {len(found)} on: {error}")
    return Outcome(words, len(found), _wrong(problem, found, wanted, seeds))


def _wrong(problem, found: list[dict], wanted: list, seeds: int) -> str:
    """What is wrong with the results of the first run that is not right, if any."""
    import numpy as np

    from jax_fa4.testing import tolerances
    from jax_fa4.variants import parse
    from jax_fa4.variants.catalog import is_deterministic

    kept = ("out", "lse", "dk", "dv", *(("dq",) if is_deterministic(parse(problem[1])) else ()))
    first: dict = {}
    for run, result in enumerate(found):
        how = _settings(problem[0], run, seeds)
        try:
            tolerances.check(result, *wanted)
        except AssertionError as error:
            return f"{how}: {error}"
        before = first.setdefault(how["exact"], result)
        if any(not np.array_equal(result[name], before[name]) for name in kept):
            return f"{how}: other bits than at first"
    return ""


def page(command: str, outcomes: list[Outcome], seconds: float) -> str:
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    lines = [
        "# Bounded kernels on the emulator",
        "",
        f"Written by `tests/emulator/prove_bounded.py {command}`: {len(outcomes)} problems,",
        f"{sum(o.runs for o in outcomes)} runs of forward and backward kernels with all checks on, "
        f"half at each level, in {seconds:.0f} s;",
        f"products rounded as tensor cores do in every {EXACT_EVERY}th and plain float32 sums in",
        f"the others. {len(wrong)} problems with a finding, a result out of tolerance, or bits",
        "(of dq where it has an order) that depend on the schedule.",
        "",
        *by_kernel(outcomes),
        "",
        *(f"* WRONG: {outcome.words}: {outcome.wrong.splitlines()[0]}" for outcome in wrong),
        *(f"* {outcome.words}" for outcome in outcomes if not outcome.wrong),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="sm90")
    parser.add_argument("--problems", type=int, default=100, help="of each pair of kernels")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kernels", nargs="*", help="backward kernels (default: all)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="the page")
    options = parser.parse_args()
    command = f"--arch {options.arch} --problems {options.problems} --seeds {options.seeds}"
    command += f" --kernels {' '.join(options.kernels)}" if options.kernels else ""
    start = time.monotonic()
    outcomes = []
    find_rooms()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, find_rooms) as pool:
        work = problems(options.arch, options.problems, options.kernels)
        for outcome in pool.map(functools.partial(prove, seeds=options.seeds), work):
            outcomes.append(outcome)
            state = f"{outcome.words}: {outcome.wrong or 'right'}"
            print(f"[{len(outcomes)}/{len(work)}] {state}", flush=True)
            if options.output:  # at once, too
                options.output.write_text(page(command, outcomes, time.monotonic() - start))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
