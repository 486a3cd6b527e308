"""Which sends lie beside kernels, read from the schedule of a compiled program."""

from __future__ import annotations

import re

_START = re.compile(r"%?([\w.-]+) = .* collective-permute-start\(")
_DONE = re.compile(r" collective-permute-done\(.*%([\w.-]+)\)")


def beside_kernels(scheduled: str) -> list[bool]:
    """For each permute of a scheduled HLO module, in the order of their ends: beside a kernel?

    A permute is if one of our calls, or a branch, which has one, stands between its start and its
    end. One that is not asynchronous never is.
    """
    underway: dict[str, bool] = {}
    finished = []
    for line in scheduled.splitlines():
        if start := _START.search(line):
            underway[start[1]] = False
        elif done := _DONE.search(line):
            finished.append(underway.pop(done[1]))
        elif " collective-permute(" in line:
            finished.append(False)
        elif ("custom-call(" in line and "jax_fa4" in line) or " conditional(" in line:
            underway = dict.fromkeys(underway, True)
    return finished
