"""Races of asynchronous copies, atomics and clusters: found if and only if an edge is lost."""

import numpy as np
import pytest
from copy_races import text
from copy_races_bulk import BULK
from copy_races_thread import CLUSTERS, COPIES

SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(2))]
LEVELS = ("ptx", "hardware")
KERNELS = BULK | COPIES | CLUSTERS
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
    ctas = 2 if name in CLUSTERS else 1
    box = tensor_map(1, "f32", (8, 8), (32,), (8, 8))
    for completion, seed in SCHEDULES:
        how = {"grid": (ctas, 1, 1), "cluster": (ctas, 1, 1), "block": (64, 1, 1)}
        how |= {"level": level, "completion": completion, "seed": seed}
        data = np.zeros(1024, np.float32)
        if expected is None:
            run_ptx(kernel, box, data, **how)
            continue
        with pytest.raises(finding, match=expected):
            run_ptx(kernel, box, data, **how)


@pytest.mark.parametrize(("store", "found"), [("BULK_STORE", True), ("REDUCE", False)])
def test_reductions_of_two_ctas_meet(store, found, run_ptx, tensor_map, finding):
    kernel = text(f"@leader {store}\n @leader GROUP\n @leader WAIT\n")
    box = tensor_map(1, "f32", (8, 8), (32,), (8, 8))
    arguments = (box, np.zeros(1024, np.float32))
    if not found:
        run_ptx(kernel, *arguments, grid=(2, 1, 1), block=(64, 1, 1))
        return
    with pytest.raises(finding, match=r"race: .*global address.*CTAs of different clusters"):
        run_ptx(kernel, *arguments, grid=(2, 1, 1), block=(64, 1, 1))
