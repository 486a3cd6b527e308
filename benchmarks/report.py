"""Results as JSON, as a table for a terminal and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import FORWARD_BACKWARD_FACTOR
from benchmarks.peers import PEERS

SCHEMA = 1
OURS = "jax_fa4"

Row = Mapping[str, Any]


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write the whole document, replacing the file in one step: a killed run keeps the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(path.suffix + ".part")
    scratch.write_text(json.dumps(document, indent=1) + "\n")
    scratch.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A document that `save` wrote; ValueError if it is another kind of file."""
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a benchmark result of schema {SCHEMA}")
    return document


def peers_of(document: Mapping[str, Any]) -> list[str]:
    """Every contestant that was asked for, ours first, absent ones included."""
    asked = {name for run in document["runs"] for name in run["peers"]}
    return [name for name in PEERS if name in asked]


def by_cell(results: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """cell name -> contestant -> result, in the order of measurement."""
    table: dict[str, dict[str, Row]] = {}
    for row in results:
        table.setdefault(row["cell"], {})[row["peer"]] = row
    return table


def head_dim_v(row: Row) -> int:
    """Of the values; files written before it could differ do not say it."""
    return int(row.get("head_dim_v", row["head_dim"]))


def ratio_to_best_peer(rows: Mapping[str, Row]) -> float | None:
    """Our speed over the best right peer's in one cell; None if either has no right result."""
    right = {name: row["tflops"] for name, row in rows.items() if row["status"] == "ok"}
    peers = [speed for name, speed in right.items() if not PEERS[name].ours]
    return right[OURS] / max(peers) if OURS in right and peers else None


def header(peers: Sequence[str]) -> list[str]:
    return ["head dim", "pass", "mask", "S", *peers, "of peak", "of best peer"]


def cells_of_row(
    rows: Mapping[str, Row], peers: Sequence[str], absent: Collection[str]
) -> list[str]:
    """One row of a table, as text."""
    some = next(iter(rows.values()))
    ratio = ratio_to_best_peer(rows)
    ours = rows.get(OURS, {})
    percent = ours.get("percent_of_peak") if ours.get("status") == "ok" else None
    return [
        ", ".join(map(str, dict.fromkeys((some["head_dim"], head_dim_v(some))))),
        "forward+backward" if some["pass_"] == "fwdbwd" else "forward",
        some["mask"],
        str(some["seqlen"]),
        *(_speed(rows.get(name), absent=name in absent) for name in peers),
        f"{percent:.0f} %" if percent else "-",
        f"{ratio:.2f} x" if ratio else "-",
    ]


def _speed(row: Row | None, *, absent: bool) -> str:
    if row is None:
        return "absent" if absent else "not run"
    if not row["tflops"]:
        return str(row["status"])
    speed = f"{row['tflops']:.0f}" if row["tflops"] >= 10 else f"{row['tflops']:.2g}"
    return speed if row["status"] == "ok" else f"({speed}) {row['status']}"


def absent_of(document: Mapping[str, Any]) -> set[str]:
    """The contestants that were absent from some run."""
    return {name for run in document["runs"] for name in run["absent"]}


def notes(document: Mapping[str, Any]) -> list[str]:
    """Who was absent, failed or wrong, and why; each reason once."""
    lines: dict[str, list[str]] = {}
    for run in document["runs"]:
        for name, reason in run["absent"].items():
            lines.setdefault(f"{name}: absent: {reason}", [])
    for row in document["results"]:
        if row["status"] != "ok":
            lines.setdefault(f"{row['peer']}: {row['status']}: {row['detail']}", []).append(
                row["cell"]
            )
    return [f"{line} ({', '.join(cells)})" if cells else line for line, cells in lines.items()]


def as_text(document: Mapping[str, Any]) -> str:
    """An aligned table, then the notes."""
    peers = peers_of(document)
    lines = [header(peers)]
    absent = absent_of(document)
    lines += [cells_of_row(rows, peers, absent) for rows in by_cell(document["results"]).values()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join(["TFLOP/s", *text, *notes(document)])


def as_markdown(document: Mapping[str, Any]) -> str:
    """The page benchmarks/results/<gpu>.md: conditions, table, notes."""
    peers = peers_of(document)
    last = document["runs"][-1]
    env, method = last["environment"], last["method"]
    peaks = [run["peak_tflops"] for run in document["runs"]]
    packages = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    lines = [
        f"# Attention on {env['gpu']}",
        "",
        "Written by `python -m benchmarks.merge`; the protocol is in `benchmarks/README.md`.",
        "",
        f"TFLOP/s, bf16, {method['tokens']} tokens, hidden {method['hidden']}: batch = tokens / S,",
        f"heads = hidden / head dim; median of {method['rounds']} interleaved samples of",
        f"{method['distinct_inputs']} distinct calls in one jit. FLOPs = 4 B H S S D, half when",
        f"causal, x {FORWARD_BACKWARD_FACTOR} for forward+backward; where values have Dv columns,",
        "2 B H S S (D + Dv) and 2 B H S S (4 D + 3 Dv), heads = hidden / Dv.",
        f"Peak: the same process's bf16 product of {method['matmul_size']} cubed,",
        f"{min(peaks):.3g} to {max(peaks):.3g} TFLOP/s over {len(peaks)} run(s).",
        "`of peak` and `of best peer` are jax_fa4's.",
        "",
        f"- driver {env['driver']}, {packages}, Python {env['python']}",
        f"- clocks before the last run: {_pairs(env['clocks_at_start'])}",
        *(
            f"- {run['environment']['date']}: `{run['environment']['command']}`, "
            f"peak {run['peak_tflops']:.3g}"
            for run in document["runs"]
        ),
        "",
        _markdown_row(header(peers)),
        _markdown_row(["---:"] * len(header(peers))),
    ]
    for rows in by_cell(document["results"]).values():
        lines.append(_markdown_row(cells_of_row(rows, peers, absent_of(document))))
    remarks = notes(document)
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "not known"


def _markdown_row(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"
