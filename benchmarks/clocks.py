"""Time the forward while the GPU's clock and power are read: cycles, whatever the clock does.

    python -m benchmarks.clocks --json clocks.json

Each cell of the forward runs for `--seconds` without a pause; NVML is asked for the SM clock and
the power all the while. What is written of a cell is the mean time of a call in the second half,
when the clock has settled, and the mean clock and power of the same span. The product that defines
the peak is measured likewise.
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
from jax_fa4.testing import timing

_SM_CLOCK = 1  # NVML_CLOCK_SM
_PRODUCT = 8192


class Clock(threading.Thread):
    """Reads (time, MHz, watts) of GPU 0 until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self.device = ctypes.c_void_p()
        self._check(self.nvml.nvmlInit_v2())
        self._check(self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)))
        self.readings: list[tuple[float, int, float]] = []
        self.over = threading.Event()

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"NVML answered with error {status}")

    def run(self) -> None:
        megahertz, milliwatts = ctypes.c_uint(), ctypes.c_uint()
        while not self.over.wait(0.004):
            self.nvml.nvmlDeviceGetClockInfo(self.device, _SM_CLOCK, ctypes.byref(megahertz))
            self.nvml.nvmlDeviceGetPowerUsage(self.device, ctypes.byref(milliwatts))
            now = time.perf_counter()
            self.readings.append((now, megahertz.value, milliwatts.value / 1000))


def settled(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Seconds of a call, and the clock and power, once `seconds` are half over.

    The next executions are enqueued before the last ones are waited for: the GPU never idles, so
    that a clock which is higher in a pause does not count.
    """
    executions = timing.calibrate(call)

    def enqueue() -> Any:
        for _ in range(executions):
            last = call()
        return last

    clock = Clock()
    clock.start()
    begin = time.perf_counter()
    under_way, ends = enqueue(), []
    while not ends or ends[-1] < begin + seconds:
        following = enqueue()
        jax.block_until_ready(under_way)
        ends.append(time.perf_counter())
        under_way = following
    clock.over.set()
    clock.join()
    jax.block_until_ready(under_way)
    half = begin + (ends[-1] - begin) / 2
    late = [at for at in ends if at >= half]
    readings = [(mhz, watts) for at, mhz, watts in clock.readings if late[0] <= at <= late[-1]]
    return {
        "seconds": (late[-1] - late[0]) / (len(late) - 1) / executions,
        "megahertz": statistics.mean(mhz for mhz, _ in readings),
        "megahertz_range": [min(readings)[0], max(readings)[0]],
        "watts": statistics.mean(watts for _, watts in readings),
    }


def _product(seconds: float) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (jax.random.normal(key, (_PRODUCT, _PRODUCT), "bfloat16") for key in keys)
    multiply = jax.jit(lambda a, b: a @ b)
    found = settled(lambda: multiply(a, b), seconds)
    return {"cell": f"product-{_PRODUCT}", "tflops": _tflops(2.0 * _PRODUCT**3, found), **found}


def _tflops(flops: float, found: dict[str, Any]) -> float:
    return flops / float(found["seconds"]) / 1e12


def _cell(cell: cells.Cell, attend: peers.Attend, seconds: float) -> dict[str, Any]:
    inputs = measure.make_inputs(cell)
    program = measure.program(attend, cell)
    found = settled(lambda: program(inputs), seconds)
    found["seconds"] /= measure.DISTINCT_INPUTS
    return {"cell": cell.name, "tflops": _tflops(cell.flops, found), **found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clocks", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="written anew after every cell")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every cell")
    parser.add_argument("--peer", default="jax_fa4", choices=list(peers.PEERS))
    options = parser.parse_args()
    attend = peers.PEERS[options.peer].load()
    rows = [_product(options.seconds)]
    document = {"environment": environment.describe(), "peer": options.peer, "results": rows}
    for cell in cells.grid(passes=("fwd",)):
        rows.append(_cell(cell, attend, options.seconds))
        print(json.dumps(rows[-1]), flush=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
