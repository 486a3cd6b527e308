"""The page's sections as markdown: every cell beside its measurements, and what it is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from benchmarks.cells import Cell, grid
from benchmarks.hopper.timing import launch
from benchmarks.hopper.timing.kernels import Forward
from benchmarks.pages import row
from benchmarks.timing_model.units import Chip

_STEP = 250e6  # Hz; in cycles, only the share of device memory depends on the clock


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One cell: cycles of a call by the multiprocessors' own counters, and their mean clock."""

    cycles: float
    megahertz: float
    tflops: float


def read(path: Path) -> dict[str, Measured]:
    """By the cell's name, as `python -m benchmarks.clocks` wrote it."""
    names = [each.name for each in fields(Measured)]
    return {
        result["cell"]: Measured(**{name: result[name] for name in names})
        for result in json.loads(path.read_text())["results"]
    }


def _percent(model: float, real: float) -> str:
    return f"{100 * (model / real - 1):+.0f} %"


def _mean(errors: list[float]) -> str:
    return f"{100 * sum(errors) / len(errors):.0f} %"


def cells(forwards: dict[int, Forward], measured: dict[str, Measured], chip: Chip) -> Iterator[str]:
    """TFLOP/s of the model at each cell's clock, and its errors."""
    columns = ("clock, MHz", "cycles, thousands", "TFLOP/s", "model, TFLOP/s", "error")
    yield row("D", "mask", "S", *columns)
    yield row("---:", "---", *["---:"] * (1 + len(columns)))
    errors: dict[int, list[float]] = {}
    for cell in grid(passes=("fwd",)):
        real = measured[cell.name]
        there = replace(chip, hertz=real.megahertz * 1e6)
        model = cell.flops / _seconds(forwards[cell.head_dim], cell, there) / 1e12
        errors.setdefault(cell.head_dim, []).append(abs(model / real.tflops - 1))
        numbers = (f"{real.megahertz:.0f}", f"{real.cycles / 1e3:.0f}", f"{real.tflops:.0f}")
        off = f"**{_percent(model, real.tflops)}**"
        yield row(cell.head_dim, cell.mask, cell.seqlen, *numbers, f"{model:.0f}", off)
    every = [error for each in errors.values() for error in each]
    means = ", ".join(f"{_mean(each)} at head dim {d}" for d, each in errors.items())
    near = sum(error <= 0.1 for error in every)
    yield from (
        "",
        f"Mean distance {_mean(every)}: {means}; {near} of {len(every)} cells within 10 %.",
        "",
    )


def _seconds(forward: Forward, cell: Cell, chip: Chip) -> float:
    near = replace(chip, hertz=round(chip.hertz / _STEP) * _STEP)
    return forward.cycles(cell, near) / chip.hertz + chip.kernel_launch_seconds


def _measured_block(forward: Forward, measured: dict[str, Measured], chip: Chip) -> float:
    """From two lengths, by the blocks of the multiprocessor that has most."""
    two = [
        cell
        for cell in grid(passes=("fwd",), head_dims=(forward.head_dim,), masks=("full",))
        if cell.seqlen in (8192, 16384)
    ]
    blocks = [launch.cycles(cell, chip.multiprocessors, _visited, _visited, 0.0) for cell in two]
    taken = [measured[cell.name].cycles for cell in two]
    return (taken[1] - taken[0]) / (blocks[1] - blocks[0])


def _visited(tile: launch.Tile) -> float:
    return float(tile.blocks)


def blocks(
    forwards: dict[int, Forward], measured: dict[str, Measured], chip: Chip
) -> Iterator[str]:
    """A block's and a tile's cycles."""
    yield "Cycles of a block (a tile's queries by so many keys), full mask; measured is what"
    yield "S = 16384 takes more than 8192, by its blocks. And of a tile's beginning and end, where"
    yield "K and V come from L2 and Q from memory:"
    yield ""
    columns = ("tensor cores alone", "measured", "model", "a first tile's ends", "a further one's")
    yield row("D", "queries x keys", *columns, "tensor cores busy", "special units busy")
    yield row(*["---:"] * (4 + len(columns)))
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
        real = _measured_block(forward, measured, chip)
        ends = (first.start, further.start)
        numbers = (f"{x:.0f}" for x in (tensor, real, first.slope, *ends))
        shares = (f"{100 * share:.0f} %" for share in busy)
        yield row(head_dim, f"{config.tile_m} x {config.tile_n}", *numbers, *shares)
    yield ""


def assumptions(chip: Chip) -> Iterator[str]:
    """Every constant; units.py has the source of each."""
    yield "Constants, cycles where no unit is named; their sources are in"
    yield "`benchmarks/timing_model/units.py`:"
    yield ""
    values = (f"{each.name} {getattr(chip, each.name)}" for each in fields(chip))
    yield ", ".join(value.replace("_", " ") for value in values) + "."
