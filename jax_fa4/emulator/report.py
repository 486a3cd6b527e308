"""What a recorded launch consists of, as text: instructions, copies, products, waits, findings."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from jax_fa4.emulator.recording import COUNT, STUCK, Instruction, Recording
from jax_fa4.emulator.roles import Role, roles

# The manual's chapters, by the first word of an opcode; arithmetic is told by its type.
_CHAPTERS = {
    "comparison and selection": "set setp selp slct",
    "logic and shift": "and or xor not cnot lop3 shf shl shr",
    "data movement and conversion": "mov shfl prmt ld ldu st stmatrix ldmatrix cvt cvta isspacep "
    "mapa getctarank prefetch prefetchu applypriority discard createpolicy",
    "asynchronous copies": "cp",
    "control flow": "bra brx call ret exit",
    "synchronisation and communication": "bar barrier membar fence atom red vote match activemask "
    "redux griddepcontrol elect mbarrier clusterlaunchcontrol",
    "warpgroup products": "wgmma",
    "tensor core, 5th generation": "tcgen05",
    "miscellaneous": "setmaxnreg nanosleep pmevent trap brkpt",
}
_CHAPTER_OF = {word: name for name, words in _CHAPTERS.items() for word in words.split()}

_MEMORY = re.compile(r"^(ld|st|red|atom)\.(?:\w+\.)*?(global|shared|local)(?:::\w+)?\b")
_WIDTH = re.compile(r"(?:\.v(?P<vector>\d+))?\.[busf](?P<bits>\d+)$")
_TENSOR = re.compile(r"^tcgen05\.(ld|st)\..*\.(?P<shape>[\dxb]+)\.x(?P<times>\d+)\.b32")
_REGISTERS = {"32x32b": 1, "16x64b": 1, "16x32bx2": 1, "16x128b": 2, "16x256b": 4}


def chapter(opcode: str) -> str:
    """The chapter of the PTX manual that an opcode is in."""
    known = _CHAPTER_OF.get(opcode.split(".")[0])
    if known is not None:
        return known
    return "floating point" if re.search(r"\.(b?f|e\dm)\d+", opcode) else "integer arithmetic"


def report(recording: Recording) -> str:
    """Everything, one section after the other."""
    parts = (_head, _mix, _opcodes, _asynchronous, _moved, _work, _waits, _findings)
    return "\n\n".join("\n".join(_or_none(list(part(recording)))) for part in parts)


def _or_none(lines: list[str]) -> list[str]:
    return lines if len(lines) > 1 else [*lines, "  none"]


def _head(recording: Recording) -> Iterator[str]:
    x, y, z = recording.grid
    yield (
        f"{recording.name}: grid {x} x {y} x {z}, {recording.block[0]} threads a CTA, clusters of "
        + (f"{recording.cluster[0] * recording.cluster[1] * recording.cluster[2]}")
    )
    lanes = int(recording.counts["lanes"].sum())
    warps = int(recording.counts["warps"].sum())
    yield f"{warps} instructions of warps, {lanes} of threads, in {recording.steps} steps"


def _mix(recording: Recording) -> Iterator[str]:
    """Instructions of warps by chapter and role."""
    found = roles(recording)
    yield from ("instructions of warps, by chapter and role", *_legend(found))
    yield f"{'':34s}" + "".join(f"{f'[{i}]':>10s}" for i in range(len(found))) + f"{'all':>10s}"
    table: dict[str, list[int]] = defaultdict(lambda: [0] * len(found))
    for i, role in enumerate(found):
        for line, count in _executed(recording, role):
            table[chapter(line.opcode)][i] += count["warps"]
    for name, row in sorted(table.items(), key=lambda item: -sum(item[1])):
        yield f"{name:34s}" + "".join(f"{n:10d}" for n in row) + f"{sum(row):10d}"


def _legend(found: list[Role]) -> Iterator[str]:
    for i, role in enumerate(found):
        yield f"  [{i}] {role}"


def _opcodes(recording: Recording) -> Iterator[str]:
    yield "by opcode: of warps, of threads, in the text"
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for line, count in _executed(recording):
        total = totals[line.opcode]
        for i, add in enumerate((count["warps"], count["lanes"], 1)):
            total[i] += add
    for opcode, total in sorted(totals.items(), key=lambda item: -item[1][0]):
        yield f"{total[0]:10d}{total[1]:12d}{total[2]:8d}  {opcode}"


def _executed(
    recording: Recording, role: Role | None = None
) -> Iterator[tuple[Instruction, dict[str, int]]]:
    """The instructions that ran, and COUNT's fields of them; for all warps, or for a role's."""
    rows = recording.counts if role is None else recording.counts[list(role.warps)]
    sums = {name: rows[name].sum(0).tolist() for name in COUNT.names or ()}
    for i, line in enumerate(recording.instructions):
        if sums["warps"][i]:
            yield line, {name: of[i] for name, of in sums.items()}


def _moved(recording: Recording) -> Iterator[str]:
    """Bytes that asynchronous copies and loads and stores move."""
    yield "bytes moved: how often, how many"
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line, count in _executed(recording):
        name, size = _movement(line.opcode)
        if not name:
            continue
        times = count["lanes"]
        rows[name][0] += times
        rows[name][1] += times * size if size else count["amount"]
    for name, (times, size) in sorted(rows.items(), key=lambda item: -item[1][1]):
        yield f"{times:10d}{size:14d}  {name}"


def _movement(opcode: str) -> tuple[str, int]:
    """What an instruction moves, and bytes a thread (0: as the machine counted them)."""
    if _is_copy(opcode):
        return re.sub(r"\.(L2|mbarrier|bulk_group).*|\.tile|\.\dd", "", opcode), 0
    if opcode.startswith("stmatrix"):
        return "stmatrix", 4 * int(opcode[opcode.index(".x") + 2])
    tensor = _TENSOR.match(opcode)
    if tensor:
        return f"tcgen05.{tensor[1]}", 4 * _REGISTERS.get(tensor["shape"], 1) * int(tensor["times"])
    memory, width = _MEMORY.match(opcode), _WIDTH.search(opcode)
    if memory and width:
        return f"{memory[1]}.{memory[2]}", int(width["vector"] or 1) * int(width["bits"]) // 8
    return "", 0


def _is_copy(opcode: str) -> bool:
    words = r"commit_group|wait_group|wait_all|arrive|prefetch"
    return opcode.startswith("cp.") and not re.search(words, opcode)


def _asynchronous(recording: Recording) -> Iterator[str]:
    yield "asynchronous operations: how often"
    starts = r"cp\.|wgmma\.mma|tcgen05\.(mma|commit|cp|st)|clusterlaunchcontrol\.try"
    for line_opcode, times in _times(recording).most_common():
        if re.match(starts, line_opcode) and not re.search(r"_group$|wait", line_opcode):
            yield f"{times:10d}  {line_opcode}"


def _times(recording: Recording) -> Counter[str]:
    """How often each opcode was executed: by lanes where each lane's is an operation of its own."""
    times: Counter[str] = Counter()
    for line, count in _executed(recording):
        alone = line.opcode.startswith(("cp.", "tcgen05.mma", "tcgen05.commit"))
        times[line.opcode] += count["lanes" if alone else "warps"]
    return times


def _work(recording: Recording) -> Iterator[str]:
    yield "arithmetic"
    products = _sum(recording, lambda line: re.search(r"mma", line.opcode) is not None, "amount")
    exponentials = _sum(recording, lambda line: line.opcode.startswith("ex2"), "lanes")
    pairs = _sum(recording, lambda line: re.match(r"ex2.*x2$", line.opcode) is not None, "lanes")
    yield f"{products:14d}  multiplications and additions on tensor cores"
    yield f"{exponentials + pairs:14d}  exponentials"


def _sum(recording: Recording, takes: Callable[[Instruction], bool], what: str) -> int:
    return sum(count[what] for line, count in _executed(recording) if takes(line))


def _waits(recording: Recording) -> Iterator[str]:
    """How often and how long each role waited for what."""
    yield "waits by role: of how many, how often and how many steps it did wait"
    for role in roles(recording):
        yield f"  {role}"
        rows: dict[str, Counter[str]] = defaultdict(Counter)
        for line, count in _executed(recording, role):
            if re.search(r"wait|sync|alloc", line.opcode):
                rows[line.opcode].update(count)
        for opcode, row in sorted(rows.items(), key=lambda item: -item[1]["waited"]):
            if row["waits"] or "wait" in opcode:
                yield f"{row['warps']:10d}{row['waits']:10d}{row['waited']:12d}  {opcode}"


def _findings(recording: Recording) -> Iterator[str]:
    yield "findings"
    yield from (f"  {line}" for line in recording.finding.splitlines())
    stuck = int((recording.events["kind"] == STUCK).sum())
    if stuck:
        yield f"  {stuck} waits and operations were not over"
    if recording.dropped:
        yield f"  {recording.dropped} events were not kept; the sums above have them"
