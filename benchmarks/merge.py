"""Join the JSON files of several runs on one kind of GPU; later files win.

python -m benchmarks.merge a.json b.json --json all.json --markdown benchmarks/results/h100.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cells import HEAD_DIMS, MASKS, PASSES
from benchmarks.peers import PEERS


def merge(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document with every run and, for a cell and contestant, the last result.

    ValueError if the runs differ in what makes their numbers comparable.
    """
    runs = [run for document in documents for run in document["runs"]]
    for what, values in (
        ("GPU", {run["environment"]["gpu"] for run in runs}),
        ("tokens", {run["method"]["tokens"] for run in runs}),
        ("hidden", {run["method"]["hidden"] for run in runs}),
    ):
        if len(values) > 1:
            raise ValueError(
                f"runs differ in {what}: {sorted(map(str, values))}; merge those of one at a time"
            )
    latest = {
        (row["cell"], row["peer"]): row for document in documents for row in document["results"]
    }
    return {
        "schema": report.SCHEMA,
        "runs": runs,
        "results": sorted(latest.values(), key=_position),
    }


def _position(row: dict[str, Any]) -> tuple[int, ...]:
    """The order of the published table: pass, head dim, mask, length, contestant."""
    head_dims = [*HEAD_DIMS, row["head_dim"]]
    return (
        PASSES.index(row["pass_"]),
        head_dims.index(row["head_dim"]),
        row["head_dim"],
        report.head_dim_v(row),
        MASKS.index(row["mask"]),
        row["seqlen"],
        list(PEERS).index(row["peer"]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args(argv)
    try:
        document = merge([report.read(path) for path in arguments.inputs])
    except ValueError as error:
        parser.error(str(error))
    print(report.as_text(document))
    if arguments.json:
        report.save(arguments.json, document)
    if arguments.markdown:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text(report.as_markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
