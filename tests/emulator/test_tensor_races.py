"""Races over tensor memory: found if and only if an edge is lost, in every schedule."""

import numpy as np
import pytest
from tensor_operands import run_product
from tensor_races import text
from tensor_races_one_thread import ONE_THREAD
from tensor_races_threads import THREADS

# Not ("latest", 1): one CTA of a pair is through before the other begins to read, so that which
# of them lets the tensor memory go last decides whether there is something to see.
SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(2))]
LEVELS = ("ptx", "hardware")
KERNELS = ONE_THREAD | THREADS
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


# What a pair of CTAs may lose: (text of the kernel, what stands there instead, finding).
FENCE = "fence.proxy.async.shared::cta;"
MEET = "  barrier.cluster.arrive;\n  barrier.cluster.wait;\n  @first tcgen05.dealloc"
PAIR = {
    "the odd CTA's proxy fence": (
        FENCE,
        f"{{ .reg .pred even; setp.eq.u32 even, rank, 0; @even {FENCE} }}",
        "race: .*read of shared address.*CTA 1 warp.*missing: fence.proxy.async",
    ),
    "the hand-over of the operands": (
        "  barrier.cluster.arrive;\n  barrier.cluster.wait;\n  tcgen05.fence::after",
        "  bar.sync 0;\n  tcgen05.fence::after",
        "race: .*CTA 1 warp|uninitialised: (A|B) in shared memory|D in column|never initialised"
        "|other CTA, 1 in the grid, has exited",
    ),
    "the commit to both": (
        "mov.b16 all, 3;",
        "mov.b16 all, 1;",
        "deadlock: ",
    ),
    "the meeting before dealloc": (
        MEET,
        "  bar.sync 0;\n  @first tcgen05.dealloc",
        "race: .*CTA [01] warp .'s asynchronous read by tcgen05.ld",
    ),
    "the odd CTA's dealloc": (
        "  @first tcgen05.dealloc",
        "  setp.eq.u32 p, rank, 0; and.pred first, first, p;\n  @first tcgen05.dealloc",
        r"deadlock: (.|\n)*tcgen05.dealloc: waits for the pair's other CTA|unfinished",
    ),
    "one cta_group": (
        "tcgen05.relinquish_alloc_permit.cta_group::2",
        "tcgen05.relinquish_alloc_permit.cta_group::1",
        "cta-pair: .cta_group::1 in a kernel that uses ::2, too",
    ),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("edge", [None, *PAIR])
def test_pair_of_ctas(edge, level, run_ptx, finding):
    def run(kernel, *arguments, **how):
        if edge is not None:
            old, new, _ = PAIR[edge]
            assert old in kernel
            kernel = kernel.replace(old, new)
        return run_ptx(kernel, *arguments, **how)

    for completion, seed in SCHEDULES:
        how = {"completion": completion, "seed": seed, "level": level}
        if edge is None:
            run_product(run, group=2, how=how)
            continue
        with pytest.raises(finding, match=PAIR[edge][2]):
            run_product(run, group=2, how=how)


def test_an_arrival_may_come_after_a_later_commits(run_ptx, tensor_map, finding):
    """PTX ISA 9.7.16.6.2: two commits are no pipelined pair; a kernel may not exit in between."""
    body, _ = KERNELS["commits to two mbarriers"]
    kernel = text(body.replace("AWAIT_DONE", ""), without=None)
    box = tensor_map(1, "f32", (8, 8), (32,), (8, 8))
    how = {"block": (256, 1, 1), "level": "ptx", "completion": "latest", "seed": 1}
    with pytest.raises(finding, match="an arrival after its CTA has exited"):
        run_ptx(kernel, box, np.zeros(64, np.float32), **how)
