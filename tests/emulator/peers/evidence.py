"""Run other people's kernels on the emulator and write down what came out.

    pip install jax torch nvidia-cutlass-dsl==4.8.1 einops apache-tvm-ffi torch-c-dlpack-ext
    pip install --no-deps flash-attn-4==4.0.0b36 quack-kernels
    git clone --depth 1 https://github.com/NVIDIA/cutlass CUTLASS
    python tests/emulator/peers/evidence.py --python ENVIRONMENT/bin/python --cutlass CUTLASS

ENVIRONMENT is a scratch one that holds what the first two lines install; no GPU is needed. Writes
tests/emulator/EVIDENCE.md and exits non-zero if a kernel was found wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases import FLASH_ATTENTION_4, RUNS, TUTORIAL, lengths_of, mask_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TUTORIAL_FOLDER = "examples/python/CuTeDSL/cute/blackwell/tutorial/tutorial_gemm"


@dataclass
class Result:
    """A case, and what its process printed last."""

    case: dict[str, Any]
    runs: list[dict[str, Any]]
    ctas: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Seed, completion and outcome of each run."""
        for (seed, completion), run in zip(RUNS, self.runs, strict=True):
            yield seed, completion, run


def build(folder: Path) -> Path:
    """The emulator as a library for CUTE_DSL_LIBS, as cmake/Emulator.cmake has it."""
    library = folder / "libjax_fa4_cute_dsl.so"
    runtime = [
        ROOT / "csrc" / "runtime" / f"{n}.cc"
        for n in ("backend", "captured_launch", "emulated_device", "kernel_calls", "recordings")
    ]
    rooms = [sorted((ROOT / "csrc" / room).rglob("*.cc")) for room in ("emulator", "cute_dsl")]
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
    flags.append(f"-Wl,--version-script={ROOT / 'cmake' / 'cute_dsl_exports.map'}")
    sources = map(str, [*runtime, *rooms[0], *rooms[1]])
    subprocess.run(["g++", *flags, *sources, "-o", str(library)], check=True)
    return library


def run(python: str, script: str, library: Path, case: dict[str, Any]) -> Result:
    """One case in a process of its own."""
    text = json.dumps({**case, "runs": RUNS})
    command = [python, "-W", "ignore", str(HERE / script), str(library), text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1]
        return Result(case, [{"finding": f"did not run: {last}"}] * len(RUNS))
    return Result(case, **json.loads(done.stdout.splitlines()[-1]))


def verdict(outcome: dict[str, Any]) -> str:
    """ "right", or what is wrong. Twice the error of the plain computation is allowed."""
    if "finding" in outcome:
        return str(outcome["finding"]).splitlines()[0]
    for name, (error, plain) in outcome["errors"].items():
        # lse is a float32 through a sum of exponentials, which FlashAttention-4 has by a
        # polynomial good to 2^-13.5, and one logarithm.
        if not error <= (1e-4 if name == "lse" else 2 * plain):
            return f"{name} is off by {error:.3g}, plain {plain:.3g}"
    return "right"


def worst(outcome: dict[str, Any]) -> tuple[str, str]:
    """The output that is furthest off beside the plain computation: its error, and the plain."""
    errors = {name: pair for name, pair in outcome.get("errors", {}).items() if name != "lse"}
    if not errors:
        return "", ""
    name, (error, plain) = max(errors.items(), key=lambda item: item[1][0] / max(item[1][1], 1e-30))
    return f"{name} {error:.2g}", f"{plain:.2g}"


def _row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _outcome(outcome: dict[str, Any]) -> tuple[str, str, str, str]:
    seconds = f"{outcome['seconds']:.2g}" if "seconds" in outcome else ""
    return (*worst(outcome), seconds, verdict(outcome))


def attention_table(results: list[Result], which: str) -> list[str]:
    """One row a run."""
    lines = [
        _row("D", "mask", "S", "heads", "CTAs", "seed", "when", "error", "plain", "s", "verdict"),
        "| ---: | --- | --- | --- | ---: | ---: | --- | --- | --- | ---: | --- |",
    ]
    for result in results:
        case = result.case
        if case["pass"] != which:
            continue
        what = (case["head_dim"], mask_of(case), lengths_of(case), "{}/{}".format(*case["heads"]))
        lines += [
            _row(*what, result.ctas, seed, completion, *_outcome(outcome))
            for seed, completion, outcome in result.rows()
        ]
    return lines


def tutorial_table(results: list[Result]) -> list[str]:
    """One row a run."""
    lines = [
        _row("kernel", "M, N, K", "CTAs", "seed", "when", "error", "plain", "s", "verdict"),
        "| --- | --- | ---: | ---: | --- | --- | --- | ---: | --- |",
    ]
    for result in results:
        size = ", ".join(map(str, result.case["mnk"]))
        lines += [
            _row(result.case["name"], size, result.ctas, seed, completion, *_outcome(outcome))
            for seed, completion, outcome in result.rows()
        ]
    return lines


def page(attention: list[Result], tutorial: list[Result], commit: str) -> str:
    """All of it as Markdown."""
    versions = next((x.versions for x in attention if x.versions), {})
    outcomes = [run for result in [*attention, *tutorial] for run in result.runs]
    right = sum(verdict(run) == "right" for run in outcomes)
    return "\n".join(
        [
            "# Other people's kernels on the emulator",
            "",
            f"{right} of {len(outcomes)} runs are right. Written by",
            "`tests/emulator/peers/evidence.py`, which says what to install. The kernels are",
            "compiled for sm_100a by their own packages, unchanged, with nvidia-cutlass-dsl",
            f"{versions.get('nvidia-cutlass-dsl', '?')}; they run at level `hardware`, all checks"
            " on, with exact tensor cores.",
            "",
            "`right`: nothing was found, and every output is off by at most twice what the plain",
            "computation in the same type is off. Both are the largest differences from float64;",
            "the table has the output for which their ratio is worst. CTAs: how many share a",
            "product (`.cta_group`). `when` asynchronous operations take effect: as early as they",
            "may, as late as they may, or at random. Seconds are of one shared core, and indicate.",
            "",
            f"## FlashAttention-4 {versions.get('flash-attn-4', '?')}",
            "",
            "bfloat16. `S`: lengths of the sequences, queries x keys where they differ. Masks are",
            "aligned at the ends. `heads`: of queries / of keys.",
            "",
            "### Forward",
            "",
            *attention_table(attention, "forward"),
            "",
            "### Backward",
            "",
            "With the package's own kernels before and after it. Two CTAs, where the package takes",
            "them; one where FA_DISABLE_2CTA tells it to.",
            "",
            *attention_table(attention, "backward"),
            "",
            "## CUTLASS's Blackwell tutorial",
            "",
            f"`{TUTORIAL_FOLDER}`,",
            f"commit {commit}. float16, sums in float32; two clusters at",
            "a time where the schedule is static. Of `fp16_gemm_4`'s two shapes of a cluster the",
            "emulator takes the fallback.",
            "",
            *tutorial_table(tutorial),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="of the environment that holds the peers")
    parser.add_argument("--cutlass", required=True, help="a checkout of NVIDIA/cutlass")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "-C", options.cutlass, "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    folder = str(Path(options.cutlass).resolve() / TUTORIAL_FOLDER)
    attention: list[Result] = []
    tutorial: list[Result] = []
    work = [("flash_attention_4.py", case, attention) for case in FLASH_ATTENTION_4]
    work += [("cutlass_tutorial.py", {**case, "folder": folder}, tutorial) for case in TUTORIAL]
    with tempfile.TemporaryDirectory() as temporary:
        print("building the emulator", flush=True)
        library = build(Path(temporary))
        for number, (script, case, results) in enumerate(work, 1):
            results.append(run(options.python, script, library, case))
            verdicts = {verdict(outcome) for outcome in results[-1].runs}
            print(f"[{number}/{len(work)}] {case}: {', '.join(sorted(verdicts))}", flush=True)
    (HERE.parent / "EVIDENCE.md").write_text(page(attention, tutorial, commit))
    outcomes = [run for result in [*attention, *tutorial] for run in result.runs]
    return 0 if all(verdict(outcome) == "right" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
