"""MUTATION.md: what mutate.py has found, as tables."""

from __future__ import annotations

import collections
import json
import textwrap
from pathlib import Path
from typing import Any

from mutants import chosen
from subjects import plain

HEAD = """# Mutants

Written by `tests/emulator/mutate.py`. A mutant is a kernel's PTX with one fault: a wait, arrival,
fence, commit, copy or product less, one of them moved past the next access that it could order,
or another count, parity, number of bytes, column, descriptor, mask or stage. It runs on several
problems, all completions, all checks on (this package's kernels at level `ptx`, other people's at
`hardware`). It is caught by a finding, or by other bits than the kernel's. Lines that no problem
reaches do not count. A survivor is an equivalent if one of the reasons below holds, or else it is
missed.

score = caught / (made - not reached - equivalent), so it rests on the reasons. They were written
after the survivors were known. Where one says "races" it trusts the race check: a race that the
check does not know of would count as equivalent, not as missed. The missed ones gave the kernel's
bits under every schedule; some may be equivalents that no reason here proves.

Launches of this package's kernels are those that their own compiled host code makes
(`host_launches.py`). Of the forward one cluster walks all tiles, so that every loop of every role
runs, and keys of falling length make the output's rescaling happen; the rows of `fwd_sm90` are
of an earlier text of these kernels, with launches laid out by hand. Sums of dQ, which a backward
that is not deterministic adds in any order, may differ by rounding; all else has to be the same
bits. All rows are of today's mutators, unless a sentence below says otherwise. Most rows of the
forward are older than the check that tells apart what single lanes of a warp start, and all but
those of `bwd_sm90` older than the check of lanes that have not waited for what others have; both
find more and not less. What the rows of `bwd_sm100` had missed ran again with both.

Decoding runs on one sequence whose rows are those of one warp, and of teams of two and four. What
is missed there is a wait that moves past a read of the table of pages, which nobody writes.

`bwd_preprocess` has no instruction that a mutator changes: it synchronises nothing.
FlashAttention-4 4.0.0b36, D = 128, compiled by nvidia-cutlass-dsl 4.8.1: causal at S = 384 and
640, and full on pairs of CTAs at S = 600 with what survived at S = 636; queries times 16 at 640,
600 and 636, so that the output is rescaled on the way.
"""
COLUMNS = ("made", "unreached", "finding", "result", "equivalent", "missed")
TITLES = ("made", "not reached", "caught by finding", "caught by result", "equivalent", "missed")


def _outcome(mutant: dict[str, Any]) -> str:
    if mutant["outcome"] in ("hang", "crash"):
        return "missed"
    if mutant["outcome"] == "survives":
        return "equivalent" if mutant.get("reason") else "missed"
    return str(mutant["outcome"])


def _score(counts: collections.Counter[str]) -> str:
    caught = counts["finding"] + counts["result"]
    whole = caught + counts["missed"]
    return f"{caught / whole:.1%}" if whole else "-"


def _row(name: str, counts: collections.Counter[str]) -> str:
    cells = [name, *(str(counts[column]) for column in COLUMNS), _score(counts)]
    return "| " + " | ".join(cells) + " |"


def _table(first: str, rows: dict[str, collections.Counter[str]]) -> list[str]:
    head = "| " + " | ".join((first, *TITLES, "score")) + " |"
    rule = "| --- |" + " ---: |" * (len(TITLES) + 1)
    return [head, rule, *(_row(name, counts) for name, counts in rows.items()), ""]


def _is_older(results: dict[str, Any]) -> bool:
    """Whether today's mutators make other mutants of the kernel's text."""
    today = chosen(plain(results["ptx"]), results.get("every", 1), results.get("twin", ""))
    return [m["what"] for m in results["mutants"]] != [mutant.what for mutant in today]


def page(files: list[Path]) -> str:
    """The page, of the results in these files."""
    saved = {file.stem: json.loads(file.read_text()) for file in files}
    kernels = {name: results["mutants"] for name, results in saved.items()}
    every = {name: results.get("every", 1) for name, results in saved.items()}
    samples = [f"one in {nth} of `{name}`" for name, nth in every.items() if nth > 1]
    totals: dict[str, collections.Counter[str]] = {}
    for name, judged in kernels.items():
        totals[name] = collections.Counter(map(_outcome, judged))
        totals[name]["made"] = len(judged)
    totals["all"] = sum(totals.values(), collections.Counter())
    made, caught = totals["all"]["made"], totals["all"]["finding"] + totals["all"]["result"]
    plain = (
        f"Of all {made} mutants, equivalents and what is not reached too, "
        f"{caught / made:.1%} were caught."
    )
    lines = [HEAD, *_table("kernel", totals), plain, ""]
    older = [f"`{name}`" for name, results in saved.items() if _is_older(results)]
    if older:
        words = (
            f"Today's mutators make others, and more, of {', '.join(older)}: these rows are older."
        )
        lines += [*textwrap.wrap(words, 100), ""]
    if samples:
        lines += [*textwrap.wrap(f"Of these, a sample ran: {', '.join(samples)}.", 100), ""]
    twins = [f"`{name}` ({x['beside']})" for name, x in saved.items() if "beside" in x]
    if twins:
        words = (
            "Only mutants ran that a twin, here in brackets, does not have, of code that differs: "
        )
        lines += [*textwrap.wrap(f"{words}{', '.join(twins)}.", 100), ""]
    for name, judged in kernels.items():
        families: dict[str, collections.Counter[str]] = {}
        for mutant in judged:
            counts = families.setdefault(mutant["family"], collections.Counter())
            counts.update(("made", _outcome(mutant)))
        lines += [f"## {name}", "", *_table("mutator", dict(sorted(families.items())))]
        lines += _findings(judged)
        lines += _survivors(judged)
    return "\n".join(lines)


def _findings(judged: list[dict[str, Any]]) -> list[str]:
    kinds = collections.Counter(
        m["finding"].split(":")[0] for m in judged if m["outcome"] == "finding"
    )
    words = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return [*textwrap.wrap(f"Findings: {words}.", 120), ""]


def _survivors(judged: list[dict[str, Any]]) -> list[str]:
    """Those that are explained, by reason; those that are not, one by one."""
    reasons: dict[str, list[str]] = {}
    lines = []
    for mutant in judged:
        what = f"line {mutant['line']}, {mutant['what'].split(' ', 1)[0]} ({mutant['family']})"
        if _outcome(mutant) == "equivalent":
            reasons.setdefault(mutant["reason"], []).append(what)
        elif _outcome(mutant) == "missed":
            kind = "" if mutant["outcome"] == "survives" else f" ({mutant['outcome']})"
            words = " ".join(mutant["what"].split())[:160]
            lines.append(f"* MISSED{kind}: line {mutant['line']}, {mutant['family']}: `{words}`")
    for why, whats in reasons.items():
        lines += textwrap.wrap(f"* {why}: {'; '.join(whats)}.", 120, subsequent_indent="  ")
    return [*lines, ""]
