"""Run the kernels under NVIDIA's compute-sanitizer and give a verdict.

    python tests/gpu/sanitize.py [--tools memcheck racecheck] [--log DIR]

Each tool runs tests/gpu/sanitize_program.py once. Exit status 1 and a line FINDINGS if a
tool reports an error or hazard, or the program's results are wrong; 2 and NOT CHECKED if a
tool could not run. It is no pytest test: it takes minutes and wants the GPU for itself.

initcheck takes what TMA stores write for memory that nothing wrote (70659 reports of outputs on
an H100, the results right), so the program has results written over zeros: left to it is
the scratch that a kernel reads before it was written.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROGRAM = Path(__file__).with_name("sanitize_program.py")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
DEFAULT_TOOLS = ("memcheck", "racecheck")
FINDINGS_EXIT = 86  # compute-sanitizer's own, when it found something
SUMMARY = re.compile(r"(ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: (\d+) hazards?[^\n]*)")

OK, FINDINGS, NOT_CHECKED = "OK", "FINDINGS", "NOT CHECKED"


def command(tool: str, sanitizer: str, program: Path = PROGRAM) -> list[str]:
    """The command line of one tool. API errors that XLA provokes and handles are not ours."""
    return [
        sanitizer,
        *("--tool", tool),
        *("--error-exitcode", str(FINDINGS_EXIT)),
        *("--report-api-errors", "no"),
        *("--target-processes", "application-only"),
        *("--print-limit", "20"),
        *([] if tool != "racecheck" else ["--racecheck-report", "all"]),
        sys.executable,
        "-P",
        str(program),
    ]


def environment() -> dict[str, str]:
    """Every array in an allocation of its own, so that memcheck sees where it ends."""
    return {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_ALLOCATOR": "platform",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0",
        "PYTHONUNBUFFERED": "1",
    }


def judge(output: str, status: int) -> tuple[str, str]:
    """(verdict, reason) from what one tool printed and its exit status."""
    summaries = SUMMARY.findall(output)
    if "problems ran" not in output or not summaries:
        return NOT_CHECKED, f"no complete run (exit status {status})"
    text = summaries[-1][0]
    if any(int(errors or hazards) for _, errors, hazards in summaries):
        return FINDINGS, text
    if status != 0 or ", 0 wrong" not in output:
        return FINDINGS, f"{text}, but the program failed (exit status {status})"
    return OK, text


def run(tool: str, sanitizer: str, log: Path | None, timeout: float) -> tuple[str, str]:
    """Run one tool: its verdict, and the end of what it said."""
    try:
        ran = subprocess.run(
            command(tool, sanitizer),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            timeout=timeout,
            check=False,
        )
        output, status = ran.stdout, ran.returncode
    except subprocess.TimeoutExpired as error:
        raw = error.stdout or b""
        output = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        status = -1
    if log:
        log.mkdir(parents=True, exist_ok=True)
        (log / f"sanitize-{tool}.log").write_text(output)
    verdict, reason = judge(output, status)
    lines = output.splitlines()
    shown = lines[-12:] if verdict == OK else [*lines[:40], "...", *lines[-40:]]
    return verdict, "\n".join([*shown, f"sanitize: {tool}: {verdict}: {reason}"])


def find() -> str | None:
    """compute-sanitizer on the path or in the CUDA toolkit's usual folder."""
    usual = Path("/usr/local/cuda/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or (str(usual) if usual.exists() else None)


def main() -> int:
    """Run the tools that were asked for; the worst verdict decides."""
    parser = argparse.ArgumentParser(description="Run the kernels under compute-sanitizer.")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(DEFAULT_TOOLS))
    parser.add_argument("--log", type=Path, help="folder for each tool's whole output")
    parser.add_argument("--timeout", type=float, default=280.0, help="seconds a tool may take")
    arguments = parser.parse_args()
    sanitizer = find()
    if sanitizer is None:
        print("sanitize: NOT CHECKED: compute-sanitizer is not installed")
        return 2
    verdicts = []
    with ThreadPoolExecutor(len(arguments.tools)) as pool:  # a tool waits for the host, mostly
        runs = [
            pool.submit(run, tool, sanitizer, arguments.log, arguments.timeout)
            for tool in arguments.tools
        ]
        for each in runs:
            verdict, words = each.result()
            verdicts.append(verdict)
            print(words, flush=True)
    for verdict, status in ((FINDINGS, 1), (NOT_CHECKED, 2)):
        if verdict in verdicts:
            print(f"sanitize: {verdict}")
            return status
    print(f"sanitize: OK ({', '.join(arguments.tools)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
