"""Races over tensor memory: found if and only if an edge is lost, in every schedule."""

import numpy as np
import pytest
from tensor_races import KERNELS, text

SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(2))]
LEVELS = ("ptx", "hardware")
CASES = [
    pytest.param(name, edge, level, id=f"{name}: {edge or 'as it is'}, {level}")
    for name, (_, findings) in KERNELS.items()
    for edge in {"": None} | findings
    for level in LEVELS
]


@pytest.mark.parametrize(("name", "edge", "level"), CASES)
def test_found_if_and_only_if_an_edge_is_lost(name, edge, level, run_ptx, tensor_map, finding):
    body, findings = KERNELS[name]
    kernel = text(body, without=edge)
    expected = findings.get(edge, (None, None))[LEVELS.index(level)]
    box = tensor_map(1, "f32", (8, 8), (32,), (8, 8))
    for completion, seed in SCHEDULES:
        how = {"block": (256, 1, 1), "level": level, "completion": completion, "seed": seed}
        data = np.zeros(64, np.float32)
        if expected is None:
            run_ptx(kernel, box, data, **how)
            continue
        with pytest.raises(finding, match=expected):
            run_ptx(kernel, box, data, **how)


def test_every_edge_is_there():
    for body, findings in KERNELS.values():
        for edge in findings:
            assert edge == "" or f"// NEEDS {edge}\n" in body
