"""The benchmark of split sequences: its arithmetic, its profile's reading, and that it runs."""

import pytest

from benchmarks import context_parallel, overlap
from benchmarks.context_parallel import Cell

CELL = Cell(64, 4, 2, 8, None, False, 4, "ring", "zigzag")


def test_work():
    assert CELL.flops == 4 * 4 * 8 * (64 * 65 / 2)
    window = Cell(64, 4, 2, 8, 3, True, 4, "ring", "zigzag")
    assert window.flops == 3.5 * 4 * 4 * 8 * (1 + 2 + 3 + 61 * 4)


def event(name, pid, start, end):
    return {"ph": "X", "name": name, "pid": pid, "ts": start, "dur": end - start}


def test_overlap():
    ours, nccl = "kernel_cutlass_kernel_jax_fa4kernelssm90", "ncclDevKernel_SendRecv"
    events = [
        {"ph": "M", "name": "process_name"},
        event(nccl, 0, 0, 10),
        event(ours, 0, 4, 8),
        event(ours, 0, 7, 9),
        event("fusion", 0, 0, 4),  # not ours
        event(ours, 1, 0, 10),  # not there
        event(nccl, 1, 20, 30),
    ]
    assert overlap.overlap({"traceEvents": events}) == 5 / 20
    assert overlap.overlap({"traceEvents": events[4:6]}) is None


def test_rows():
    line = context_parallel.row(CELL, 2e-3, 6e-3, 0.5, None)
    assert line == "| fwd | 64 | - | ring | zigzag | 4 | 2.00 | 0 | 0.75 | 50% |\n"
    assert "WRONG: out" in context_parallel.row(CELL, 2e-3, 6e-3, None, "out is off by 0.1")


def test_the_quick_table_has_the_best_ways_alone():
    options = context_parallel.parser().parse_args(["--quick", "--devices", "2", "4"])
    for window, ways in ((None, 2), (16, 1)):
        cells = context_parallel.cells_of(options, 64, window, True)
        assert [cell.devices for cell in cells] == [1, *[2] * ways, *[4] * ways]


@pytest.mark.parametrize("broken", [False, True])
def test_it_runs(capsys, monkeypatch, broken):
    if broken:  # keys out of place
        wrong = context_parallel.jax_fa4.context_parallel_attention
        monkeypatch.setattr(
            context_parallel.jax_fa4,
            "context_parallel_attention",
            lambda q, k, v, **options: wrong(q, k[:, ::-1], v, **options),
        )
    monkeypatch.setattr(context_parallel, "WAYS", (("ring", "zigzag"),))
    monkeypatch.setattr(overlap, "profiled", lambda call: None)
    arguments = (
        "--seqlens 32 --devices 2 --windows 0 --heads 2 --heads-kv 1 --head-dim 8 --rounds 1"
    )
    assert context_parallel.main(arguments.split()) == int(broken)
    printed = capsys.readouterr().out
    assert ("WRONG" in printed) == broken
    assert "| fwdbwd | 32 | - | ring | zigzag | 2 |" in printed
