"""Kernels with one mistake, and the same without it: a finding if and only if it is there.

In `ptx/misuse/*.ptx` a line that ends in `// WRONG` belongs to the first, `// RIGHT` to the second.
"""

from pathlib import Path

import numpy as np
import pytest

FILES = sorted((Path(__file__).parent / "ptx" / "misuse").glob("*.ptx"))
MAP_FILES = ("box_misaligned", "box_rank", "box_outside_shared", "box_read_early")
SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(4))]

FINDINGS = {
    "barrier_counts": "barrier-count: barrier 1 is used with",
    "barrier_no_warps": "barrier-count: 48 threads",
    "barrier_number": "barrier-count: barrier 16 of 16",
    "box_misaligned": "misaligned: the box's shared address",
    "box_outside_shared": "out-of-bounds: 256 bytes at shared address 0x780",
    "box_rank": "tensor-map: a map of 2 dimensions in a copy of 3",
    "box_read_early": "race: a read of shared address 0x480 is not ordered",
    "deadlock_arrival": "deadlock: .*(\n.*)*lacks 1 of 2 arrivals and 0 bytes, PTX line",
    "deadlock_barrier": "deadlock: .*(\n.*)*bar.sync 1: 64 of 96 threads are there, PTX line",
    "deadlock_transactions": "deadlock: .*(\n.*)*lacks 0 of 1 arrivals and 16 bytes, PTX line",
    "divergent_aligned": "divergent: only lanes 0x55555555 of 0xffffffff",
    "global_below": "out-of-bounds: 4 bytes at",
    "global_misaligned": "misaligned: .* is not aligned to 8 bytes",
    "global_out_of_bounds": r"out-of-bounds: 4 bytes at(.|\n)*lane 31",
    "global_read_only": "read-only: a write to argument 1",
    "load_misaligned": "misaligned: shared address 0x488 is not aligned to 16 bytes",
    "load_out_of_bounds": "out-of-bounds: 128 bytes at",
    "load_size": "bulk-copy: 24 bytes is no multiple of 16",
    "local_misaligned": "misaligned: local address 6 is not aligned to 4 bytes",
    "local_out_of_bounds": "out-of-bounds: 4 bytes at local address 16; the thread has 16",
    "local_uninitialised": "uninitialised: a read of local address 0,",
    "mbarrier_bytes_missing": "mbarrier: the CTA ends when .* still expects 16 bytes",
    "mbarrier_double_init": "mbarrier: .* is initialised while it is alive",
    "mbarrier_misaligned": "misaligned: shared address 0x404 is not aligned to 8 bytes",
    "mbarrier_no_arrivals": "mbarrier: a count of 0",
    "mbarrier_over_arrival": "mbarrier: .* gets an arrival more than the 2",
    "mbarrier_phase_behind": "mbarrier: .* 2 phases behind: after phase 0, phase 2 of the same",
    "mbarrier_phase_unseen": "mbarrier: .* of phase 1 before a wait has seen the end of phase 0",
    "mbarrier_phases_split": r"mbarrier: the arrivals of one instruction .* phase 0 and go on",
    "mbarrier_uninitialised": "mbarrier: .* was never initialised",
    "runaway": "runaway: the warp has executed 1048576 instructions",
    "shared_misaligned": "misaligned: shared address 0x402 is not aligned to 4 bytes",
    "shared_out_of_bounds": "out-of-bounds: 4 bytes at shared address 0x800",
    "shared_uninitialised": "uninitialised: a read of shared address 0x400",
    "shuffle_missing": "divergent: reads lane 20, which does not take part",
    "shuffle_outside_mask": "divergent: a lane executes an instruction whose member mask",
    "store_uncommitted": "unfinished: exits with an uncommitted bulk copy",
    "store_unread": "unfinished: exits while a bulk copy still reads",
}
# What an operation that completes at once cannot show.
NOT_WHEN_EARLY = ("store_uncommitted", "store_unread")


def twin(path, dropped):
    return "\n".join(
        line for line in path.read_text().splitlines() if not line.endswith(f"// {dropped}")
    )


def launch(run_ptx, tensor_map, path, text, completion, seed):
    arguments = [np.arange(32, dtype=np.uint32)]
    if path.stem == "global_read_only":
        arguments.append(np.arange(32, dtype=np.uint32))
    if path.stem.startswith(("deadlock_barrier", "barrier", "global_below")):
        arguments = [np.zeros(64, np.uint32)]
    two_warps = ("barrier", "deadlock_barrier", "mbarrier_phase_behind")
    threads = 64 if path.stem.startswith(two_warps) else 32
    if path.stem in MAP_FILES:
        box = tensor_map(1, "f32", (16, 8), (64,), (8, 8))
        arguments = [box, np.arange(128, dtype=np.float32)]
    run_ptx(
        text,
        *arguments,
        block=(threads, 1, 1),
        completion=completion,
        seed=seed,
        read_only=(1,) if path.stem == "global_read_only" else (),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wrong(path, run_ptx, tensor_map, finding):
    text, found = twin(path, "RIGHT"), 0
    for completion, seed in SCHEDULES:
        if path.stem in NOT_WHEN_EARLY and completion != "latest":
            continue  # at random it depends on the seed
        with pytest.raises(finding, match=FINDINGS[path.stem]):
            launch(run_ptx, tensor_map, path, text, completion, seed)
        found += 1
    assert found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_right(path, run_ptx, tensor_map):
    for completion, seed in SCHEDULES:
        launch(run_ptx, tensor_map, path, twin(path, "WRONG"), completion, seed)


def test_every_file_is_here_and_has_twins():
    assert {path.stem for path in FILES} == set(FINDINGS)
    for path in FILES:
        assert twin(path, "WRONG") != twin(path, "RIGHT"), path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"grid": (1, 65536, 1)}, "a grid of 1 x 65536 x 1; at most 2147483647 x 65535 x 65535"),
        ({"grid": (0, 1, 1)}, "an empty grid"),
        ({"block": (1, 1, 65)}, "a block of 1 x 1 x 65; at most 1024 x 1024 x 64"),
        ({"block": (1025, 1, 1)}, "a block of 1025 x 1 x 1"),
        ({"block": (64, 32, 1)}, "a block of 2048 threads"),
        ({"grid": (3, 1, 1), "cluster": (2, 1, 1)}, "clusters that do not divide the grid"),
        ({"shared": 1 << 20}, "more shared memory"),
    ],
)
def test_launches_that_cannot_be(run_ptx, finding, how, message):
    text = ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k() { ret; }"
    with pytest.raises(finding, match=message):
        run_ptx(text, **how)
