"""Time the emulator: kernels of this install run on one CPU core, all checks on.

    python -m benchmarks.emulator --json emulator.json --markdown benchmarks/results/emulator.md

`--peers PYTHON LIBRARY` adds FlashAttention-4's sm_100a kernels: PYTHON is of an environment that
`tests/emulator/peers/evidence.py` describes, LIBRARY the emulator as CUTE_DSL_LIBS takes it.

Times are CPU seconds of the process, which sleeps nowhere, pinned to one core: other work on
the machine lengthens the wall time, and this much less. Each row is a process of its own; the
instructions are counted in a run that is not timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import PACKAGES, cpu_model, vectors, version

HEAD_DIM = 128
# Opcodes by what they do, for the shares of the instructions; the rest is arithmetic.
PARTS = {
    "products": ("wgmma", "tcgen05"),
    "moves": ("mov", "selp", "cvt"),
    "memory": ("ld", "st", "stmatrix", "cp"),
    "exponentials": ("ex2", "lg2", "rcp"),
    "control": ("bra", "setp", "bar", "barrier", "mbarrier", "elect", "fence"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One problem of one head; `limit` is what issue 3 allows, in seconds on one core."""

    kernel: str
    pass_: str
    seqlen: int
    limit: float
    missing: str = ""

    def name(self, exact: bool) -> str:
        """As the progress says it."""
        return f"{self.kernel} {self.pass_} S={self.seqlen} {'exact' if exact else 'plain'}"


HOPPER = "jax_fa4 sm_90a"
BLACKWELL = "jax_fa4 sm_100"
PEER = "FlashAttention-4 sm_100a"
ROWS = (
    Row(HOPPER, "forward", 1024, 1.0),
    Row(HOPPER, "forward", 4096, 10.0),
    Row(BLACKWELL, "forward", 1024, 1.0),
    Row(BLACKWELL, "forward", 4096, 10.0),
    Row(BLACKWELL, "backward", 1024, 3.0, missing="this package has no backward kernel yet"),
    Row(PEER, "forward", 1024, 1.0),
    Row(PEER, "forward", 4096, 10.0),
    Row(PEER, "backward", 1024, 3.0),
)
PEERS = Path(__file__).resolve().parents[1] / "tests" / "emulator" / "peers"


def measure(seqlen: int, exact: bool, rounds: int, core: int, arch: str) -> dict[str, Any]:
    """One row, in this process, which is pinned to `core`."""
    os.sched_setaffinity(0, {core})
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jax_fa4

    generator = np.random.default_rng(0)
    shape = (1, seqlen, 1, HEAD_DIM)
    q, k, v = (jnp.asarray(generator.standard_normal(shape), jnp.bfloat16) for _ in range(3))
    with jax_fa4.emulator.options(exact=exact, arch=arch):
        call = jax.jit(
            lambda q, k, v: jax_fa4.flash_attention(
                q, k, v, return_lse=True, implementation="emulator"
            )
        )
        program = call.lower(q, k, v).compile()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = [], []
    for _ in range(rounds):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(q, k, v))
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with jax_fa4.emulator.record(max_events=1) as recordings:
        jax.block_until_ready(program(q, k, v))
    mix: Counter[str] = Counter()
    for recording in recordings:
        counts = recording.counts["warps"].sum(axis=0)
        for instruction, count in zip(recording.instructions, counts, strict=True):
            opcode = instruction.opcode.split(".")[0]
            part = next((part for part, names in PARTS.items() if opcode in names), "arithmetic")
            mix[part] += int(count)
    return {
        "cpu": statistics.median(cpu),
        "wall": statistics.median(wall),
        "spread": (max(cpu) - min(cpu)) / 2 / statistics.median(cpu),
        "peak_bytes": peak * 1024,
        "added_bytes": (peak - before) * 1024,
        "instructions": sum(mix.values()),
        "mix": dict(mix),
    }


def reason(errors: str) -> str:
    """The last line, without the paths of a machine."""
    last = (errors.strip().splitlines() or ["no reason given"])[-1]
    return re.sub(r"/[^\s')]*/", "", last)


# Runs a peers' script, which times by perf_counter, on CPU time and one core.
_ON_CPU_TIME = """
import os, runpy, sys, time
time.perf_counter = time.process_time
script, core, *sys.argv[1:] = sys.argv[1:]
os.sched_setaffinity(0, {int(core)})
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


def measure_peer(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """One row of FlashAttention-4's, by the script that checks it."""
    case = {
        "pass": row.pass_,
        "head_dim": HEAD_DIM,
        "lengths": [[row.seqlen, row.seqlen]],
        "heads": [1, 1],
        "runs": [[0, "random"]] * (options.rounds + 1),
    }
    python, library = options.peers
    arguments = [str(PEERS / "flash_attention_4.py"), str(options.core), library, json.dumps(case)]
    command = [python, "-W", "ignore", "-c", _ON_CPU_TIME, *arguments]
    # Another environment, which has packages of its own.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode != 0:
        return {"missing": reason(done.stderr)}
    answer = json.loads(done.stdout.splitlines()[-1])
    found = answer["runs"][1:]  # the first one compiles
    wrong = [run["finding"].splitlines()[0] for run in found if "finding" in run]
    if wrong:
        return {"missing": wrong[0]}
    cpu = [run["seconds"] for run in found]
    middle = statistics.median(cpu)
    spread = (max(cpu) - min(cpu)) / 2 / middle
    return {"cpu": middle, "spread": spread, "versions": answer["versions"]}


def environment(date: str | None) -> dict[str, Any]:
    """What a reader needs to repeat or to doubt a number."""
    import jax_fa4

    return {
        "cpu": cpu_model(),
        "vectors": vectors(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "build": dict(jax_fa4.build_info()),
        "date": date or datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def table(facts: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """All of it as Markdown."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    versions = next((row["versions"] for row in results if "versions" in row), {})
    lines = [
        "# The emulator on one CPU core",
        "",
        f"Written by `python -m benchmarks.emulator`, {facts['date']}.",
        "",
        f"- {facts['cpu']} ({facts['vectors']}), one core; Python {facts['python']}, {packages},",
        f"  {facts['build'].get('compiler', '')}",
        f"- one head, D = {HEAD_DIM}, bfloat16, no mask; the installed kernel and emulator, all",
        "  checks on, completion at random",
        "- jax_fa4's kernels at level `ptx`; FlashAttention-4's at level `hardware`, its backward",
        "  with preprocessing and postprocessing",
        *(f"- {name} {number}" for name, number in versions.items()),
        "- `exact` rounds products as tensor cores do, `plain` sums them in float32",
        "- seconds are the process's CPU time, median of the rounds; `wall` passed meanwhile",
        "",
        "| kernel | pass | S | products | s | limit | wall | M instr/s | peak memory | the run's |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results:
        head = f"| {row['kernel']} | {row['pass']} | {row['seqlen']} | {row['products']} |"
        if row["missing"]:
            lines.append(f"{head} missing: {row['missing']} | {row['limit']:g} | | | | |")
            continue
        line = f"{head} {row['cpu']:.2f} | {row['limit']:g} |"
        if "wall" not in row:
            lines.append(f"{line} | | | |")
            continue
        rate = row["instructions"] / row["cpu"] / 1e6
        lines.append(
            f"{line} {row['wall']:.2f} | {rate:.1f} "
            f"| {row['peak_bytes'] / 2**20:.0f} MiB | {row['added_bytes'] / 2**20:.0f} MiB |"
        )
    lines += ["", "Instructions (of warps) by what they do:", ""]
    for row in results:
        if "mix" not in row or row["products"] != "exact":
            continue
        total = row["instructions"]
        shares = ", ".join(
            f"{part} {count / total:.0%}"
            for part, count in sorted(row["mix"].items(), key=lambda item: -item[1])
        )
        lines.append(f"- {row['kernel']}, S = {row['seqlen']}: {total / 1e6:.2f} million; {shares}")
    return "\n".join(lines) + "\n"


def run_row(row: Row, exact: bool, options: argparse.Namespace) -> dict[str, Any]:
    """The row's process, or why there is none."""
    result: dict[str, Any] = {
        "kernel": row.kernel,
        "pass": row.pass_,
        "seqlen": row.seqlen,
        "products": "exact" if exact else "plain",
        "limit": row.limit,
        "missing": row.missing,
    }
    if row.missing:
        return result
    if row.kernel == PEER:
        return result | measure_peer(row, options)
    arch = "sm90" if row.kernel == HOPPER else "sm100"
    arguments = [str(row.seqlen), str(int(exact)), str(options.rounds), str(options.core), arch]
    command = [sys.executable, "-m", "benchmarks.emulator", "--one", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        result["missing"] = reason(done.stderr)
        return result
    return result | json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Every row; JSON after each, so that a run that is cut short keeps what it has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator", description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--date", help="of the run, instead of the clock's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0, help="to pin the runs to")
    parser.add_argument("--peers", nargs=2, metavar=("PYTHON", "LIBRARY"))
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        seqlen, exact, rounds, core = map(int, options.one[:4])
        print(json.dumps(measure(seqlen, bool(exact), rounds, core, options.one[4])))
        return 0
    facts, results = environment(options.date), []
    for row in ROWS:
        if row.kernel == PEER and not options.peers:
            continue
        # FlashAttention-4's script knows exact products alone.
        for exact in (True,) if row.kernel == PEER or row.missing else (True, False):
            results.append(run_row(row, exact, options))
            found = results[-1]
            took = found["missing"] or f"{found['cpu']:.2f} s +- {found['spread']:.0%}"
            print(f"{row.name(exact)}: {took} (limit {row.limit:g} s)", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"environment": facts, "rows": results}))
    if options.markdown:
        options.markdown.write_text(table(facts, results))
    return 0 if all(row["missing"] or row["cpu"] <= row["limit"] for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
