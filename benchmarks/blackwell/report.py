"""The page of the static figures, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.blackwell.kernels import Kernel, Peer
from benchmarks.blackwell.pipes import PIPES, by_pipe
from benchmarks.blackwell.roles import Pass
from benchmarks.blackwell.sass import Instruction
from benchmarks.pages import row

Way = tuple[Instruction, ...]

CASES = (
    "softmax, no mask",
    "softmax, no mask, a maximum moves",
    "softmax, mask",
    "softmax, mask, a maximum moves",
    "correction, nothing to scale",
    "correction, scales",
    "MMA",
    "load",
)
COMPARED = CASES[:6]

_HEAD = """\
# What the Blackwell kernels execute, read from their machine code

Written by `python -m benchmarks.blackwell`, which says what it needs; no GPU. Our kernels beside
those of FlashAttention-4 {version}, both compiled by nvidia-cutlass-dsl {dsl}, disassembled by
nvdisasm.

Instructions of one warp for a block of 128 keys: one pass through the role's loop, every issued
instruction counted, predicated off or not; waits succeed at once. A softmax warp has 32 rows of one
tile of queries; a correction warp does both tiles, the MMA warp and the load warp the CTA's both.
FlashAttention-4 compiles a kernel for each kind of mask, ours takes any band at run time: one
binary is in several rows.
"""

_PIPES = """\
## By pipe

tensor: `UTC*`; mufu: `MUFU`; fma: packed or not, and integer products; alu: comparisons, minima,
maxima, logic, shifts, sums of integers, `F2FP`; tmem: `LDTM`, `STTM`; lsu: shared memory,
constants, special registers; tma: `UTMA*`; sync: mbarriers, named barriers, fences, votes, and the
`NOP`s that stand for waits on tensor memory and for `bar.warp.sync`; moves: copies of registers,
whichever pipe they go to; uniform: the scalar data path; branch. `benchmarks/blackwell/pipes.py`
has the list and its source.
"""

_RESOURCES = """\
## Registers and memory

Registers of a thread at launch, and as the roles ask for them (setmaxnreg); bytes of stack; whether
there are local loads or stores anywhere; bytes of shared memory and columns of tensor memory of
one CTA.
"""


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]], words: int = 1) -> list[str]:
    heads = list(heads)
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return [row(*heads), row(*rule), *(row(*cells) for cells in rows)]


def ways(kernel: Kernel) -> dict[str, Way]:
    """Of each case that the kernel has, the instructions of a pass over one block of keys."""
    found: dict[str, Way] = {}

    def longest(role: str) -> Pass | None:
        return max(kernel.of(role), key=lambda each: len(each.longest), default=None)

    softmax = sorted(kernel.of("softmax"), key=lambda each: len(each.shortest))
    for at, one in enumerate(softmax[:2]):
        found[CASES[2 * at]], found[CASES[2 * at + 1]] = one.shortest, one.longest
    if correction := longest("correction"):
        found[CASES[4]], found[CASES[5]] = correction.shortest, correction.longest
    for case in CASES[6:]:
        if one := longest(case):
            found[case] = one.shortest
    return found


def comparison(pairs: list[tuple[Peer, Kernel, Kernel]]) -> Iterator[tuple[Any, ...]]:
    """(head dim and mask, role, ours, theirs, difference) where both have the case."""
    for peer, ours, theirs in pairs:
        mine, its = ways(ours), ways(theirs)
        for case in CASES:
            if case in mine and case in its:
                a, b = len(mine[case]), len(its[case])
                yield peer.name, case, a, b, f"{a - b:+d}"


def excess(pairs: list[tuple[Peer, Kernel, Kernel]]) -> list[str]:
    """Where a softmax or correction warp of ours executes more, which pipes have it."""
    lines = []
    for peer, ours, theirs in pairs:
        mine, its = ways(ours), ways(theirs)
        for case in COMPARED:
            if case in mine and case in its and len(mine[case]) > len(its[case]):
                a, b = by_pipe(mine[case]), by_pipe(its[case])
                parts = [f"{p} {a[p] - b[p]:+d}" for p in PIPES if a[p] != b[p]]
                lines.append(f"- {peer.name}, {case}: {', '.join(parts)}")
    return lines


def _pipes(kernels: Iterable[Kernel]) -> Iterator[tuple[Any, ...]]:
    for kernel in kernels:
        for case, way in ways(kernel).items():
            counts = by_pipe(way)
            yield kernel.name, case, *(counts[pipe] or "" for pipe in PIPES), len(way)


def _resources(kernels: Iterable[Kernel], smem: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    for kernel in kernels:
        asked = [
            next((str(one.registers) for one in kernel.of(role) if one.registers), "-")
            for role in ("softmax", "correction", "MMA")
        ]
        spills = "yes" if any(o.startswith(("STL", "LDL")) for o in kernel.opcodes) else "no"
        shared = smem.get(kernel.name, "")
        columns = kernel.tmem_columns
        yield kernel.name, kernel.registers, *asked, kernel.stack_bytes, spills, shared, columns


def page(
    pairs: list[tuple[Peer, Kernel, Kernel]],
    variants: list[Kernel],
    smem: dict[str, int],
    remarks: str,
    runs: Iterable[str],
) -> str:
    """All of it. Without peers, our own figures alone; `runs` are the lines of whole runs."""
    versions = pairs[0][2].versions if pairs else {}
    everybody = [*variants, *(theirs for _, _, theirs in pairs)]
    heads = ("kernel", "registers", *("softmax", "correction", "others"), "stack", "spills")
    lines = [
        _HEAD.format(
            version=versions.get("flash-attn-4", "(absent)"),
            dsl=versions.get("nvidia-cutlass-dsl", "(absent)"),
        ),
        "## Ours beside FlashAttention-4's",
        "",
        *_table(("head dim", "role", "ours", "theirs", "difference"), comparison(pairs), 2),
        "",
        *(["Where ours has more, by pipe:", "", *excess(pairs), ""] if excess(pairs) else []),
        remarks,
        _PIPES,
        *_table(("kernel", "role", *PIPES, "sum"), _pipes(everybody), 2),
        "",
        _RESOURCES,
        *_table((*heads, "shared memory", "tmem"), _resources(everybody, smem)),
        "",
        *runs,
    ]
    return "\n".join(lines)
