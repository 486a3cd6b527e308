"""Run other people's kernels on the emulator and write down what came out.

    pip install torch nvidia-cutlass-dsl==4.8.1 einops apache-tvm-ffi torch-c-dlpack-ext
    pip install --no-deps flash-attn-4==4.0.0b36 quack-kernels
    python tests/emulator/peers/evidence.py --python ENVIRONMENT/bin/python

ENVIRONMENT is a scratch one that holds what the two lines install; no GPU is needed. Writes
tests/emulator/EVIDENCE.md and exits non-zero if a kernel was found wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
COMPLETIONS = ("earliest", "latest", "random")

# head dim, causal, length, query heads, key heads, seed, completion
CASES = (
    (64, 1, 256, 1, 1, 0, 2),
    (64, 0, 512, 2, 2, 3, 1),
    (128, 1, 512, 1, 1, 4, 0),
    (128, 0, 512, 1, 1, 0, 2),
    (128, 0, 512, 1, 1, 1, 1),
    (128, 0, 1024, 2, 1, 0, 2),
)


def build(folder: Path) -> Path:
    """The emulator as a library for CUTE_DSL_LIBS."""
    library = folder / "libpeers.so"
    sources = [HERE / "calls.cc", *sorted((ROOT / "csrc" / "emulator").rglob("*.cc"))]
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(library)], check=True)
    return library


def run(python: str, library: Path, case: tuple[int, ...]) -> dict[str, Any]:
    """One case in a process of its own; what it printed last."""
    command = [python, str(HERE / "flash_attention_4.py"), str(library), *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"finding": (done.stderr or done.stdout).strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def verdict(result: dict[str, Any]) -> str:
    """ "right", or what is wrong. Twice the error of the plain computation is allowed."""
    if result["finding"]:
        return str(result["finding"]).splitlines()[0]
    if not result["out_error"] <= 2 * result["plain_error"]:
        return f"out is off by {result['out_error']:.3g}"
    # float32 through a sum of approximate exponentials (2^-22 each) and one logarithm.
    return "right" if result["lse_error"] < 1e-4 else f"lse is off by {result['lse_error']:.3g}"


def page(results: list[tuple[tuple[int, ...], dict[str, Any]]]) -> str:
    """The table as Markdown."""
    lines = [
        "# Other people's kernels on the emulator",
        "",
        "Written by `tests/emulator/peers/evidence.py`. FlashAttention-4 4.0.0b36, forward,",
        "sm_100a, bfloat16, compiled by nvidia-cutlass-dsl 4.8.1, unchanged; level `hardware`,",
        "exact tensor cores. Errors against float64; `plain` is that of the plain computation",
        "in bfloat16.",
        "",
        "| D | mask | S | heads | seed | completion | out | plain | lse | seconds | verdict |",
        "| ---: | --- | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for (head_dim, causal, length, heads, kv_heads, seed, completion), result in results:
        names = ("out_error", "plain_error", "lse_error", "seconds")
        figures = [result.get(name, math.nan) for name in names]
        cells = (
            str(head_dim),
            "causal" if causal else "full",
            str(length),
            f"{heads}/{kv_heads}",
            str(seed),
            COMPLETIONS[completion],
            *(f"{figure:.2g}" for figure in figures),
            verdict(result),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="of the environment that holds the peers")
    python = parser.parse_args().python
    results = []
    with tempfile.TemporaryDirectory() as folder:
        print("building the emulator", flush=True)
        library = build(Path(folder))
        for number, case in enumerate(CASES, 1):
            result = run(python, library, case)
            print(f"[{number}/{len(CASES)}] {case}: {verdict(result)}", flush=True)
            results.append((case, result))
    (HERE.parent / "EVIDENCE.md").write_text(page(results))
    return 0 if all(verdict(result) == "right" for _, result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
