"""Count the cycles of the forward on an H100: what it takes, whatever the clock does.

    python -m benchmarks.clocks --json clocks.json

Each cell of the forward runs for `--seconds` without a pause. Before and after its second half,
when the clock has settled, a small kernel reads every multiprocessor's counter of cycles and the
time: cycles of a call are exact then, and so is the mean clock. NVML reads the power meanwhile.
`burst` is the same after a pause, when power limits nothing: the difference of one and of three
executions. The product that defines the peak is measured as cells are.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from benchmarks import cells, environment, measure, peers
from benchmarks.hopper.units import programs
from benchmarks.hopper.units.driver import Gpu
from jax_fa4.testing import timing

_PRODUCT = 8192
_PAUSE = 0.02  # seconds, before a burst


class Power(threading.Thread):
    """Reads (time, watts) of GPU 0 until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self.device = ctypes.c_void_p()
        self._check(self.nvml.nvmlInit_v2())
        self._check(self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)))
        self.readings: list[tuple[float, float]] = []
        self.over = threading.Event()

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"NVML answered with error {status}")

    def run(self) -> None:
        milliwatts = ctypes.c_uint()
        while not self.over.wait(0.01):
            self.nvml.nvmlDeviceGetPowerUsage(self.device, ctypes.byref(milliwatts))
            self.readings.append((time.perf_counter(), milliwatts.value / 1000))


class Counters:
    """Every multiprocessor's cycles, and nanoseconds, while the GPU idles."""

    def __init__(self) -> None:
        self.gpu = Gpu(scratch=1 << 20)
        self.ptx = programs.stamps()
        self.read()

    def read(self) -> dict[int, tuple[int, int]]:
        """By multiprocessor."""
        ctas = self.gpu.multiprocessors
        found = self.gpu.run(self.ptx, threads=1, ctas=ctas, shared=200 * 1024)
        columns = (found[at : 3 * ctas : 3] for at in range(3))
        return {place: (cycles, now) for place, cycles, now in zip(*columns, strict=True)}

    def between(self, run: Callable[[], Any]) -> tuple[float, float]:
        """Cycles and seconds that `run` took, which ends with a wait."""
        before = self.read()
        run()
        after = self.read()
        both = before.keys() & after.keys()
        cycles = statistics.median(after[place][0] - before[place][0] for place in both)
        nanoseconds = statistics.median(after[place][1] - before[place][1] for place in both)
        return cycles, nanoseconds / 1e9


def settled(counters: Counters, call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Cycles and seconds of a call, clock and power, once `seconds` are half over.

    The next executions are enqueued before the last ones are waited for: the GPU never idles, so
    that a clock which is higher in a pause does not count.
    """
    executions = timing.calibrate(call)
    count = 0

    def keep_busy() -> None:
        nonlocal count
        begin, last, under_way = time.perf_counter(), None, None
        while time.perf_counter() < begin + seconds / 2:
            for _ in range(executions):
                last = call()
            count += executions
            jax.block_until_ready(under_way)
            under_way = last
        jax.block_until_ready(under_way)

    keep_busy()
    count = 0
    power = Power()
    power.start()
    cycles, taken = counters.between(keep_busy)
    power.over.set()
    power.join()
    return {
        "cycles": cycles / count,
        "seconds": taken / count,
        "megahertz": cycles / taken / 1e6,
        "watts": statistics.mean(watts for _, watts in power.readings),
    }


def burst(counters: Counters, call: Callable[[], Any], rounds: int = 5) -> dict[str, float]:
    """Cycles of a call by the difference of three and one, after a pause; and the clock."""

    def run(executions: int) -> Callable[[], None]:
        def several() -> None:
            for _ in range(executions):
                last = call()
            jax.block_until_ready(last)

        return several

    differences, clocks = [], []
    for _ in range(rounds):
        time.sleep(_PAUSE)
        one, _ = counters.between(run(1))
        time.sleep(_PAUSE)
        three, taken = counters.between(run(3))
        differences.append((three - one) / 2)
        clocks.append(three / taken / 1e6)
    return {"cycles": statistics.median(differences), "megahertz": statistics.median(clocks)}


def _product(counters: Counters, seconds: float) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (jax.random.normal(key, (_PRODUCT, _PRODUCT), "bfloat16") for key in keys)
    multiply = jax.jit(lambda a, b: a @ b)
    found = settled(counters, lambda: multiply(a, b), seconds)
    return {"cell": f"product-{_PRODUCT}", "tflops": _tflops(2.0 * _PRODUCT**3, found), **found}


def _tflops(flops: float, found: dict[str, Any]) -> float:
    return flops / float(found["seconds"]) / 1e12


def _cell(
    counters: Counters, cell: cells.Cell, attend: peers.Attend, inputs: Any, seconds: float
) -> dict[str, Any]:
    program = measure.program(attend, cell)
    found = settled(counters, lambda: program(inputs), seconds)
    short = burst(counters, lambda: program(inputs))
    for row in (found, short):
        for name in row.keys() & {"cycles", "seconds"}:
            row[name] /= measure.DISTINCT_INPUTS
    return {"cell": cell.name, "tflops": _tflops(cell.flops, found), **found, "burst": short}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clocks", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="written anew after every cell")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every cell")
    parser.add_argument("--peer", default="jax_fa4", choices=list(peers.PEERS))
    options = parser.parse_args()
    attend = peers.PEERS[options.peer].load()
    counters = Counters()
    rows = [_product(counters, options.seconds)]
    document = {"environment": environment.describe(), "peer": options.peer, "results": rows}

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")

    inputs: dict[tuple[int, int], Any] = {}
    for cell in cells.grid(passes=("fwd",)):
        shape = (cell.head_dim, cell.seqlen)
        if shape not in inputs:
            inputs[shape] = measure.make_inputs(cell)
        add(_cell(counters, cell, attend, inputs[shape], options.seconds))


if __name__ == "__main__":
    main()
