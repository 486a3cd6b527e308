"""Runs the decoding kernels on random problems under many schedules; writes PROOF_DECODE.md.

    python tests/emulator/prove_decode.py --problems 160 --seeds 20

As prove_forward.py: every run has all checks on, and every schedule runs at both levels. The first
run of a problem is held to the definition in float64 by the one rule of tolerances, every other to
the first one's bits. What no query may see of a cache is NaN, and tables of pages point nowhere
there. Each problem runs on every family. Exits non-zero if anything was found.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from prove_forward import COMPLETIONS, HERE, LEVELS, Outcome, find_rooms

ARCHS = ("sm90", "sm100")
RATIOS = (1, 1, 2, 3, 4, 8, 16)
QUERIES = (1, 1, 1, 2, 3, 5, 8, 16)
PAGES = (0, 0, 16, 32, 64, 128, 256)
HEAD_DIMS = ((64, 0), (128, 0), (128, 0), (40, 0), (8, 24), (96, 80), (72, 128), (64, 128))
MOST = 40_000  # of query heads x queries x keys of a problem


def problems(count: int) -> list:
    """(case, dtype, parts) of lengths from 0 to the capacity, and of some beyond."""
    from jax_fa4.testing.decode import DecodeCase

    draw, found = random.Random(0), []
    while len(found) < count:
        capacity = draw.choice(
            (draw.randint(1, 80), draw.randint(80, 400), draw.randint(400, 1400))
        )
        heads_kv, queries = draw.choice((1, 1, 2, 3)), draw.choice(QUERIES)
        heads = heads_kv * draw.choice(RATIOS)
        batch = draw.choice((1, 2, 3))
        if batch * heads * queries * capacity > MOST:
            continue
        lengths = (0, 1, capacity, capacity + 9, *(draw.randint(0, capacity) for _ in range(4)))
        sides = (None, None, 0, 5, draw.randint(0, capacity))
        head_dim, head_dim_v = draw.choice(HEAD_DIMS)
        case = DecodeCase(
            lengths=tuple(draw.choice(lengths) for _ in range(batch)),
            capacity=capacity,
            queries=queries,
            heads=heads,
            heads_kv=heads_kv,
            head_dim=head_dim,
            head_dim_v=head_dim_v,
            page_size=draw.choice(PAGES),
            causal=draw.random() < 0.7,
            window=(draw.choice(sides), draw.choice(sides)),
            softcap=draw.choice((0.0, 0.0, 3.0)),
            sinks=draw.random() < 0.3,
            softmax_scale=draw.choice((None, 0.5)),
            seed=len(found),
        )
        parts = draw.choice((None, 1, 2, 3, 7))
        found.append((case, draw.choice(("bfloat16", "float16")), parts))
    return found


def _words(case, dtype: str, parts: int | None) -> str:
    cache = f"pages of {case.page_size}" if case.page_size else "contiguous"
    return (
        f"lengths {case.lengths} of {case.capacity}, {cache}; {case.queries} queries, "
        f"{case.heads}/{case.heads_kv} heads, D = {case.head_dim}, "
        f"{case.head_dim_v or case.head_dim}, {dtype}, window {case.window}, "
        f"{'causal' if case.causal else 'full'}, softcap {case.softcap:g}, "
        f"{'sinks, ' if case.sinks else ''}parts {parts or 'by shapes'}"
    )


def prove(problem, seeds: int) -> Outcome:
    """All schedules of one problem."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jax_fa4
    from jax_fa4.testing import decode, tolerances

    case, dtype, parts = problem
    words = _words(*problem)
    x = decode.make(case, jnp.dtype(dtype))
    wanted = decode.exact(case, x), decode.plain(case, x)
    done = 0
    for arch in ARCHS:
        first = None
        for run in range(seeds * len(LEVELS)):
            seed, level = run % seeds, LEVELS[run // seeds]
            how = {"seed": seed, "completion": COMPLETIONS[seed % 3], "arch": arch, "level": level}
            place = f"{arch}, {level}, seed {seed}"
            try:
                with jax_fa4.emulator.options(**how):
                    found = _call(case, x, parts)
                if first is None:
                    first = found
                    tolerances.check(found, *wanted)
            except (AssertionError, jax.errors.JaxRuntimeError) as error:
                return Outcome(words, done, f"{place}: {error}")
            if any(np.asarray(found[n]).tobytes() != first[n].tobytes() for n in found):
                return Outcome(words, done, f"{place}: other bits than at first")
            done += 1
    return Outcome(words, done, "")


def _call(case, x, parts: int | None) -> dict:
    import jax
    import numpy as np

    import jax_fa4

    def call(x):
        return jax_fa4.decode_attention(
            *x[:3],
            key_value_seq_lengths=x.lengths,
            page_table=x.page_table,
            learnable_sink=x.sinks,
            num_splits=parts,
            implementation="emulator",
            **case.options,
        )

    out, lse = jax.jit(call)(x)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


def page(command: str, outcomes: list[Outcome], seconds: float) -> str:
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    lines = [
        "# Decoding on the emulator",
        "",
        f"Written by `tests/emulator/prove_decode.py {command}`: {len(outcomes)} problems on "
        f"{' and '.join(ARCHS)},",
        f"{sum(o.runs for o in outcomes)} runs of the decoding kernel and what merges its parts, "
        f"with all checks on, half at each level, in {seconds:.0f} s.",
        f"{len(wrong)} problems with a finding, a result out of tolerance, or bits that depend on "
        "the schedule.",
        "",
        *(f"* WRONG: {outcome.words}: {outcome.wrong.splitlines()[0]}" for outcome in wrong),
        *(f"* {outcome.words}" for outcome in outcomes if not outcome.wrong),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "PROOF_DECODE.md")
    options = parser.parse_args()
    command = f"--problems {options.problems} --seeds {options.seeds}"
    start = time.monotonic()
    outcomes = []
    find_rooms()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, find_rooms) as pool:
        work = problems(options.problems)
        for outcome in pool.map(functools.partial(prove, seeds=options.seeds), work):
            outcomes.append(outcome)
            state = f"{outcome.words}: {outcome.wrong or 'right'}"
            print(f"[{len(outcomes)}/{len(work)}] {state}", flush=True)
            # At once: it is true of what has run, should the rest be cut short.
            options.output.write_text(page(command, outcomes, time.monotonic() - start))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
