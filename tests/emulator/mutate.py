"""Runs mutants of kernels on the emulator and writes MUTATION.md: how many of them it catches.

    python -m jax_fa4.aot -o build/kernels
    python tests/emulator/mutate.py run --results DIR build/kernels/fwd_sm100_bf16_d128.ptx ...
    python tests/emulator/mutate.py run --results DIR --beside TWIN.ptx KERNEL.ptx
    python tests/emulator/mutate.py run --results DIR --name KERNEL launch.npz ...
    python tests/emulator/mutate.py page --results DIR

A mutant is caught if a finding ends one of its runs, or if a run gives other bits than the kernel.
Otherwise it survives: because its line is never reached, or as an equivalent of the kernel, for a
reason that mutant_reasons.py checks (again with `explain`), or because the emulator misses it.

Other people's kernels come as launches: .npz files with the text (ptx), grid, block, cluster and
dynamic shared bytes (geometry), the bytes of the parameters, and of each buffer its address in
them (addresses), its contents (memory0, ...) and whether the kernel writes it (writable).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pickle
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import FLAGS, HERE, Emulator, EmulatorError, build
from mutant_checks import Survivor
from mutant_reasons import reason
from mutants import Mutant, chosen, marked, mutants
from mutation_page import page
from subjects import Schedule, Subject, captured_subject, package_subject, plain, schedules

TIMEOUT_SECONDS = 600.0  # of a machine that has other things to do, too
FIRST = Schedule("random", 0)


def outcome(subject: Subject, ptx: str, schedule: Schedule, expected: list[bytes] | None):
    """("finding", text), ("result", "") or ("none", results) of all launches."""
    results = []
    for i, launch in enumerate(subject.launches):
        try:
            results.append(launch(ptx, schedule))
        except EmulatorError as error:
            return "finding", str(error)
        if expected is not None and results[i] != expected[i]:
            return "result", ""
    return "none", results


def in_child(body: Callable[[], Any], seconds: float = TIMEOUT_SECONDS) -> Any:
    """body() in a child process: it may hang or crash."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(body(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], seconds)
        data = pipe.read() if ready else b""
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return "hang", ""
    return pickle.loads(data) if data else ("crash", f"status {status}")


def judge(subject: Subject, mutant: Mutant, expected: list[bytes]) -> tuple[str, str]:
    """("finding", text), ("result", ""), ("unreached", "") or ("survives", "")."""

    def all_schedules() -> tuple[str, str]:
        for schedule in (FIRST, *schedules()):
            kind, text = outcome(subject, mutant.text, schedule, expected)
            if kind != "none":
                return kind, text if kind == "finding" else ""
            if schedule is FIRST:
                there = outcome(subject, marked(subject.ptx, mutant.line), FIRST, None)
                if there[0] != "finding":
                    return "unreached", ""
        return "survives", ""

    return in_child(all_schedules)


def run(subject: Subject, options: argparse.Namespace) -> None:
    """Judge every mutant, or those that are chosen; results/<kernel>.json has them all."""
    began = time.time()
    kind, expected = outcome(subject, subject.ptx, FIRST, None)
    if kind == "finding":
        sys.exit(f"{subject.name} itself is at fault:\n{expected}")
    for schedule in schedules():
        kind, text = outcome(subject, subject.ptx, schedule, expected)
        if kind != "none":
            sys.exit(f"{subject.name} itself, {schedule}: {kind} {text}")
    judged: list[dict[str, Any]] = []
    twin = plain(options.beside.read_text()) if options.beside else ""
    for mutant in chosen(subject.ptx, options.every, twin):
        if not mutant.family.startswith(options.families):
            continue
        kind, text = judge(subject, mutant, expected)
        if text.startswith("syntax"):
            sys.exit(f"{mutant} does not decode: {text}")
        judged.append(
            {k: v for k, v in dataclasses.asdict(mutant).items() if k != "text"}
            | {"outcome": kind, "finding": text.splitlines()[0][:300] if text else ""}
        )
        if options.show or kind not in ("finding", "result"):
            print(f"{kind}: {mutant.family}: {str(mutant)[:160]}\n    {text[:200]}", flush=True)
    caught = sum(m["outcome"] in ("finding", "result") for m in judged)
    print(f"{subject.name}: {len(judged)} mutants, {caught} caught, {time.time() - began:.0f} s")
    options.results.mkdir(parents=True, exist_ok=True)
    saved = {"ptx": subject.ptx, "every": options.every, "mutants": judged}
    if options.beside:
        saved |= {"twin": twin, "beside": options.beside.stem}
    (options.results / f"{subject.name}.json").write_text(json.dumps(saved))


def explain(subject: Subject, results: Path) -> None:
    """Give every survivor in results/<kernel>.json that has no reason one, if there is one."""
    path = results / f"{subject.name}.json"
    saved = json.loads(path.read_text())
    if saved["ptx"] != subject.ptx:
        sys.exit(f"{path} is about another text of {subject.name}")
    survivors = {(m["line"], m["what"]): m for m in saved["mutants"] if m["outcome"] == "survives"}

    def kinds(ptx: str) -> set[str]:
        """Of findings, up to the first that no check can accept; "" where there is none."""
        found: set[str] = set()
        for schedule, launch in itertools.product((FIRST, *schedules()), subject.launches):
            try:
                launch(ptx, schedule)
                found.add("")
            except EmulatorError as error:
                found.add(str(error).split(":")[0])
            if not found <= {"", "deadlock"}:
                break
        return found

    _, expected = outcome(subject, subject.ptx, FIRST, None)

    def unchanged(ptx: str) -> bool:
        kinds = (outcome(subject, ptx, x, expected)[0] for x in (FIRST, *schedules()))
        return all(kind == "none" for kind in kinds)

    for mutant in mutants(subject.ptx):
        judged = survivors.get((mutant.line, mutant.what))
        if judged is None or judged.get("reason"):
            continue
        judged["reason"] = reason(
            Survivor(
                mutant,
                subject.ptx,
                lambda ptx: set(in_child(lambda: kinds(ptx))),
                subject.cluster,
                lambda ptx: in_child(lambda: unchanged(ptx)) is True,
            )
        )
        if not judged["reason"]:
            print(f"unexplained: {mutant.family}: {str(mutant)[:200]}", flush=True)
    path.write_text(json.dumps(saved))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "explain", "page"))
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--name", help="of captured launches' kernel")
    parser.add_argument("--families", default="", help="only mutators that begin so")
    parser.add_argument("--every", type=int, default=1, help="a sample: each nth mutant")
    parser.add_argument("--beside", type=Path, help="only mutants that this kernel does not have")
    parser.add_argument("--show", action="store_true", help="print what each mutant was caught by")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "emulator")
    options = parser.parse_intermixed_args()
    if options.command == "page":
        text = page(sorted(options.results.glob("*.json")))
        (Path(__file__).parent / "MUTATION.md").write_text(text)
        return
    sys.path.append(str(HERE.parents[1]))
    FLAGS[FLAGS.index("-O1")] = "-O2"  # there are thousands of runs
    emulator = Emulator(build(options.cache, "face.cc", "-shared"))
    if options.name:
        subjects = [captured_subject(emulator, options.name, options.files)]
    else:
        subjects = [package_subject(emulator, path, options.cache) for path in options.files]
    for subject in subjects:
        if options.command == "run":
            run(subject, options)
        explain(subject, options.results)


if __name__ == "__main__":
    main()
