"""What hides what a device sends: read from a profile of its kernels.

The overlap is the share of the time of a device's collectives in which one of our kernels runs on
that device, too. A collective's time contains that of waiting for the other side.
"""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

EXECUTIONS = 3  # in a profile
# NCCL's kernels, and the copies between devices that XLA makes in their place if told to.
SENDS = ("ncclDevKernel", "ncclKernel", "MemcpyP2P")

Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time in intervals that do not touch."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def common(a: Iterable[Interval], b: Iterable[Interval]) -> float:
    """Time in intervals of both."""
    pairs = itertools.product(union(a), union(b))
    return sum(max(0.0, min(x[1], y[1]) - max(x[0], y[0])) for x, y in pairs)


def overlap(trace: dict[str, Any]) -> float | None:
    """Share of the time of collectives in which one of ours runs on the same device."""
    sent: dict[int, list[Interval]] = {}
    computed: dict[int, list[Interval]] = {}
    for event in trace["traceEvents"]:
        if event.get("ph") != "X":
            continue
        name, interval = event["name"], (event["ts"], event["ts"] + event["dur"])
        if name.startswith(SENDS):
            sent.setdefault(event["pid"], []).append(interval)
        elif name.startswith("kernel_cutlass") and "jax_fa4" in name:
            computed.setdefault(event["pid"], []).append(interval)
    total = sum(end - start for device in sent.values() for start, end in union(device))
    hidden = sum(common(device, computed.get(pid, ())) for pid, device in sent.items())
    return hidden / total if total else None


def profiled(call: Callable[[], Any]) -> float | None:
    """The overlap in a few executions."""
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = options.host_tracer_level = 0  # what the devices do is enough
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(EXECUTIONS):
                result = call()
            jax.block_until_ready(result)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        return overlap(json.loads(gzip.decompress(path.read_bytes())))
