"""The three parts of `python -m jax_fa4`, one after the other, and the verdict."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

import jax_fa4
from jax_fa4.demo import device_report, experiment, self_check
from jax_fa4.demo.console import heading, make_console, verdict


def run(*, seconds: int, steps: int | None, seed: int, output: Path, train: bool) -> int:
    """Do it all; the exit code, 0 if nothing failed. `steps`, if given, overrides `seconds`."""
    start = time.perf_counter()
    console = make_console()
    show_machine(console)
    reasons = check_attention(console, seed)
    if train:
        plan = experiment.Plan(seconds=seconds, steps=steps, seed=seed, output=output)
        reasons += experiment.run(console, plan)
    for reason in reasons:
        console.print(Text(f"  failed: {reason}", style="red"))
    console.print(f"\n{time.perf_counter() - start:.0f} s in all")
    outcome = Text("FAILED", style="bold red") if reasons else Text("OK", style="bold green")
    console.print(Text("verdict: ") + outcome)
    return 1 if reasons else 0


def show_machine(console: Console) -> None:
    """Part one: where are we, and which path does attention take?"""
    heading(console, "This machine")
    for label, fact in device_report.lines():
        console.print(f"  {label:15s} {fact}", markup=False)


def check_attention(console: Console, seed: int) -> list[str]:
    """Part two: forward and backward against the definition. Returns what failed."""
    heading(console, "Attention, forward and backward, against its definition in float64")
    console.print(
        "  Error as a share of what is allowed: twice the error of the plain computation in the\n"
        "  same precision, plus one unit in the last place."
    )
    names = "".join(f"{name:>6s}" for name in self_check.RESULTS)
    console.print(Text(f"  {self_check.HEADER} {'path':8s}{names}", style="bold"))
    reasons: list[str] = []
    for report in self_check.run(jax_fa4.flash_attention, seed):
        shares = "".join(f"{found.share:6.2f}" for found in report.measurements.values())
        row = Text(f"  {report.problem} {report.path:8s}{shares}  ")
        console.print(row + verdict(not report.failures))
        reasons += report.failures
    return reasons
