"""The page's sections as markdown: every cell beside its measurements, and what it is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from benchmarks.cells import Cell, grid
from benchmarks.hopper.timing.kernels import Forward
from benchmarks.timing_model.units import Chip

_STEP = 250e6  # Hz; in cycles, only the share of device memory depends on the clock


@dataclass(frozen=True, kw_only=True)
class Known:
    """One cell, TFLOP/s: version 1 of the forward as measured at a clock that was read then, in
    this model, and in `h100.md`; versions 1 and 2 beside each other.
    """

    megahertz: float
    measured: float
    model: float
    table: float
    beside: tuple[float, float]


def read(path: Path) -> dict[str, Known]:
    """By the cell's name."""
    return {name: Known(**row) for name, row in json.loads(path.read_text())["cells"].items()}


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _percent(model: float, real: float) -> str:
    return f"{100 * (model / real - 1):+.0f} %"


def _mean(errors: list[float]) -> str:
    return f"{100 * sum(errors) / len(errors):.0f} %"


def version_1(known: dict[str, Known]) -> Iterator[str]:
    """TFLOP/s of the model at each cell's clock, and its errors."""
    columns = ("clock, MHz", "measured then", "model", "error", "`h100.md`", "error")
    yield _row("D", "mask", "S", *columns)
    yield _row("---:", "---", *["---:"] * (1 + len(columns)))
    errors: dict[int, list[float]] = {}
    for cell in grid(passes=("fwd",)):
        real = known[cell.name]
        errors.setdefault(cell.head_dim, []).append(abs(real.model / real.measured - 1))
        numbers = (f"{real.megahertz:.0f}", f"{real.measured:.0f}", f"{real.model:.0f}")
        off = f"**{_percent(real.model, real.measured)}**"
        table = (f"{real.table:.0f}", _percent(real.model, real.table))
        yield _row(cell.head_dim, cell.mask, cell.seqlen, *numbers, off, *table)
    every = [error for each in errors.values() for error in each]
    means = ", ".join(f"{_mean(each)} at head dim {d}" for d, each in errors.items())
    near = sum(error <= 0.105 for error in every)
    yield from (
        "",
        f"Mean distance {_mean(every)}: {means}; {near} of {len(every)} cells within 10 %.",
    )
    yield ""


def version_2(forwards: dict[int, Forward], known: dict[str, Known], chip: Chip) -> Iterator[str]:
    """What the second version gained, in the model and as measured."""
    columns = ("measured", "model", "error", "model, TFLOP/s at that clock")
    yield _row("D", "mask", "S", *columns)
    yield _row("---:", "---", *["---:"] * (1 + len(columns)))
    errors = []
    for cell in grid(passes=("fwd",)):
        real = known[cell.name]
        there = replace(chip, hertz=real.megahertz * 1e6)
        tflops = cell.flops / _seconds(forwards[cell.head_dim], cell, there) / 1e12
        gained, model = real.beside[1] / real.beside[0], tflops / real.model
        errors.append(abs(model / gained - 1))
        numbers = (f"{gained:.2f} x", f"{model:.2f} x", _percent(model, gained), f"{tflops:.0f}")
        yield _row(cell.head_dim, cell.mask, cell.seqlen, *numbers)
    near = sum(error <= 0.105 for error in errors)
    yield from ("", f"Mean distance {_mean(errors)}; {near} of {len(errors)} cells within 10 %.")
    yield ""


def _seconds(forward: Forward, cell: Cell, chip: Chip) -> float:
    near = replace(chip, hertz=round(chip.hertz / _STEP) * _STEP)
    return forward.cycles(cell, near) / chip.hertz + chip.kernel_launch_seconds


def blocks(forwards: dict[int, Forward], chip: Chip) -> Iterator[str]:
    """A block's and a tile's cycles."""
    yield "Version 2, cycles of a block (a tile's queries by so many keys), full mask, and of a"
    yield "tile's beginning and end, where K and V come from L2 and Q from memory:"
    yield ""
    columns = ("tensor cores alone", "model", "a first tile's ends", "a further one's")
    yield _row("D", "queries x keys", *columns, "tensor cores busy", "special units busy")
    yield _row(*["---:"] * (4 + len(columns)))
    near = replace(chip, hertz=6 * _STEP)
    for head_dim, forward in forwards.items():
        config = forward.config
        first, further = (
            forward.first(False, near, 0),
            forward.further(False, near, 0, 512),
        )
        tensor = 4 * config.tile_m * config.tile_n * head_dim / chip.flops
        result = forward.replay("full_4096", chip)
        end = max(result.end.values())
        busy = (result.busy[0, "tensor"] / end, result.busy[0, "special"] / 4 / end)
        numbers = (f"{x:.0f}" for x in (tensor, first.slope, first.start, further.start))
        shares = (f"{100 * share:.0f} %" for share in busy)
        yield _row(head_dim, f"{config.tile_m} x {config.tile_n}", *numbers, *shares)
    yield ""


def assumptions(chip: Chip) -> Iterator[str]:
    """Every constant; units.py has the source of each."""
    yield "Constants, cycles where no unit is named; their sources are in"
    yield "`benchmarks/timing_model/units.py`:"
    yield ""
    values = (f"{each.name} {getattr(chip, each.name)}" for each in fields(chip))
    yield ", ".join(value.replace("_", " ") for value in values) + "."
