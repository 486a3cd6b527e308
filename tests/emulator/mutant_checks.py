"""What a machine checks of a mutant that nothing caught, before a reason is given for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mutant_text import FAULT, WAIT, Text
from mutants import Mutant


@dataclass(frozen=True)
class Survivor:
    """A mutant, the text that it was made of, and a way to run changes of that text."""

    mutant: Mutant
    ptx: str
    kinds: Callable[[str], set[str]]  # of findings under every schedule; "" where there is none
    clusters: int  # CTAs a cluster
    unchanged: Callable[[str], bool]  # the kernel's own bits, under every schedule

    def clean(self, ptx: str) -> bool:
        """No finding, whatever the result, under every schedule."""
        return self.kinds(ptx) == {""}

    @property
    def lines(self) -> list[str]:
        return self.ptx.split("\n")

    @property
    def code(self) -> str:
        return self.lines[self.mutant.line - 1].strip()

    @property
    def passed(self) -> str:
        """Of a move, the instruction that it passed, cut."""
        return self.mutant.what.split(" past ")[-1] if self.mutant.family.startswith("move") else ""

    def replaced(self, statement: str) -> str:
        """The kernel with another statement at the mutant's line."""
        lines = self.lines
        lines[self.mutant.line - 1] = statement
        return "\n".join(lines)


def already_over(survivor: Survivor) -> bool:
    wait = WAIT.search(survivor.code)
    if not wait:
        return False
    kind, predicate, address, parity, _ = wait.groups()
    test = f"mbarrier.test_wait{kind} {predicate}, {address}, {parity}; @!{predicate} {FAULT}"
    return survivor.clean(survivor.replaced(test))


def over_when_used(survivor: Survivor) -> bool:
    """A wait whose phase is over at the next access, or arrival, behind it: others wait between."""
    drops = survivor.mutant.family in ("drop wait", "change stage", "change parity")
    wait = WAIT.search(survivor.code)
    if not drops or not wait or not re.fullmatch(r"\[%\w+\s*(\+\s*\d+)?\]", wait[3]):
        return False
    here = survivor.mutant.line - 1
    instead = survivor.mutant.text.split("\n")[here]
    return survivor.clean(Text(survivor.ptx).stops_if_used_before_over(here, instead))


def last_wait(survivor: Survivor) -> bool:
    text = Text(survivor.ptx)
    line = survivor.mutant.line - 1
    if survivor.mutant.family == "move arrive" and "try_wait" in survivor.passed:
        line = text.near(survivor.passed, line)
    return "wait" in text.lines[line] and not text.accesses_after(line)


def for_last_waits(survivor: Survivor) -> bool:
    """An arrival for which only waits that protect nothing wait: without both all is well."""
    text = Text(survivor.ptx)
    here = survivor.mutant.line - 1
    lines = [here, *([text.near(survivor.passed, here)] if survivor.passed else [])]
    for line in lines:
        arrives = re.match(r"(?:@\S+\s+)?(?:mbarrier\.arrive|tcgen05\.commit)", text.lines[line])
        if arrives and survivor.clean(text.without([line, *text.last_waits()])):
            return True
    return False


def converged(survivor: Survivor) -> bool:
    """bar.warp.sync after an instruction that all lanes execute together."""
    text = Text(survivor.ptx)
    here = survivor.mutant.line - 1
    if "bar.warp.sync" not in survivor.code + survivor.passed:
        return False
    at = here if "bar.warp.sync" in survivor.code else text.near("bar.warp.sync", here)
    return ".sync.aligned" in text.before(at)


def delays(survivor: Survivor) -> bool:
    moves = survivor.mutant.family == "move barrier" and survivor.mutant.what.startswith("earlier")
    return moves and re.match(r"mbarrier\.arrive|tcgen05\.commit", survivor.passed) is not None


def read_watched(survivor: Survivor) -> bool:
    reads = re.match(r"tcgen05\.ld|ld\.shared", survivor.passed) is not None
    return survivor.mutant.family == "move arrive" and reads


def ordered_by_another(survivor: Survivor) -> bool:
    """A wait for another phase: when it is over, so is the right one."""
    wait = WAIT.search(survivor.code)
    if not wait or survivor.mutant.family not in ("change stage", "change parity"):
        return False
    kind, predicate, address, parity, _ = wait.groups()
    changed = survivor.mutant.text.split("\n")[survivor.mutant.line - 1]
    test = (
        f"{changed} @!{predicate} bra LAB_WAIT; "
        f"mbarrier.test_wait{kind} {predicate}, {address}, {parity}; @!{predicate} {FAULT}"
    )
    return "LAB_WAIT:" in survivor.ptx and survivor.clean(survivor.replaced(test))


def unused(survivor: Survivor) -> bool:
    return survivor.code.startswith("mbarrier.init") and survivor.clean(survivor.replaced(""))


def phase_unwaited(survivor: Survivor) -> bool:
    """An mbarrier whose phases nobody waits for: it may count more arrivals than ever come."""
    init = re.match(r"(mbarrier\.init\S*\s+\[[^\]]*\], )", survivor.code)
    if not init:
        return False
    many = f"{{ .reg .b32 many; mov.b32 many, 1048575; {init[1]}many; }}"
    return survivor.clean(survivor.replaced(many))


def arrival_unwaited(survivor: Survivor) -> bool:
    arrives = re.match(r"(?:@\S+\s+)?(?:mbarrier\.arrive|tcgen05\.commit)", survivor.code)
    return bool(arrives) and survivor.clean(survivor.replaced(""))


def alone(survivor: Survivor) -> bool:
    return survivor.code.startswith("tcgen05.relinquish_alloc_permit")


def source_kept(survivor: Survivor) -> bool:
    groups = re.compile(r"cp\.async\.bulk\.(?:commit_group|wait_group)")
    return any(groups.match(code) for code in (survivor.code, survivor.passed))


def own_address(survivor: Survivor) -> bool:
    """The barrier behind tcgen05.alloc, where nobody else reads the address that it writes."""
    alloc = re.search(r"tcgen05\.alloc\S*\s+(\[[^\]]*\])", survivor.ptx)
    if not alloc or survivor.mutant.family != "move barrier":
        return False
    users = [line for line in survivor.lines if alloc[1] in line]
    return len(users) == 2 and any(line.strip().startswith(survivor.passed) for line in users)


def renamed(survivor: Survivor) -> bool:
    """A barrier at which all who use it meet here, under a number that is free."""
    barrier = re.match(r"bar\.sync\s+(\d+)[,;]", survivor.code)
    if survivor.mutant.family != "change barrier" or not barrier:
        return False
    new = int(barrier[1]) + 9
    lines, named = survivor.lines, re.compile(r"bar(?:rier)?\.(?:sync|arrive)\s+(%?\w+)")
    for at, line in enumerate(lines):
        used = named.match(line.strip())
        if used and used[1] == str(new):
            return False
        if used and used[1].startswith("%"):  # stops where this is the new number
            same = f"setp.eq.u32 is_new, {used[1]}, {new}; @is_new {FAULT}"
            lines[at] = f"{{ .reg .pred is_new; {same} {line} }}"
    return survivor.clean("\n".join(lines))


def only_announced(survivor: Survivor) -> bool:
    return survivor.mutant.family in ("move wait", "move arrive") and (
        "expect_tx" in survivor.passed or "expect_tx" in survivor.code
    )


def no_memory(survivor: Survivor) -> bool:
    """A wait and a barrier of warps change places, as all these warps do both."""
    pair = {survivor.code, survivor.passed}
    return survivor.mutant.family.startswith("move") and any(
        re.match(r"(?:bar|barrier)\.sync", one) and "wait" in other
        for one in pair
        for other in pair
    )


def orders_nothing(survivor: Survivor) -> bool:
    """A named barrier without which all is well: it gives turns on the tensor cores."""
    barrier = re.match(r"bar\.sync\s+%\w+, (\d+);", survivor.code)
    if survivor.mutant.family != "move barrier" or not barrier:
        return False
    same = re.compile(rf"bar\.(?:sync|arrive)\s+%\w+, {barrier[1]};")
    text = Text(survivor.ptx)
    return survivor.clean(text.without([i for i, x in enumerate(text.lines) if same.match(x)]))


def arrives_itself(survivor: Survivor) -> bool:
    """A barrier of warps that each arrive at an mbarrier next, which counts them all."""
    after = (line.strip() for line in survivor.lines[survivor.mutant.line :])
    codes = [line for line in after if line.endswith(";") and not line.startswith((".", "//"))]
    matters = re.compile(r"(?:@\S+\s+)?(?:ld\.|st|cp\.|wgmma|tcgen05|bar|mbarrier|fence)")
    if survivor.mutant.family != "drop barrier" or "warp" in survivor.code:
        return False
    return next(filter(matters.match, codes), "").startswith("mbarrier.arrive.shared")


def met_before(survivor: Survivor) -> bool:
    """Lanes meet that have done nothing since they met, or since all threads did at the start."""
    text = Text(survivor.ptx)
    here = survivor.mutant.line - 1
    if "bar.warp.sync" not in survivor.code + survivor.passed:
        return False
    at = here if "bar.warp.sync" in survivor.code else text.near("bar.warp.sync", here)
    return text.met_before(at)


def value_unused(survivor: Survivor) -> bool:
    """Something between the store to shared memory just before it and an arrival that tells of it.

    Any other value in the store's place gives the same bits.
    """
    here = survivor.mutant.line - 1
    arrives = survivor.mutant.family == "move arrive" and survivor.passed.startswith("st.shared")
    if not arrives and "bar.warp.sync" not in survivor.code:
        return False
    lines = survivor.lines
    stores = [i for i in range(max(here - 8, 0), here) if "st.shared.b32" in lines[i]]
    if not stores:
        return False
    nan = re.sub(r", %\w+;", ", 0x7fffffff;", lines[stores[-1]])
    lines[stores[-1]] = nan
    return survivor.unchanged("\n".join(lines))


def waited_again(survivor: Survivor) -> bool:
    """Another tcgen05.wait::ld follows before anything tells others."""
    if not survivor.code.startswith("tcgen05.wait::ld"):
        return False
    if survivor.mutant.family == "move wait":
        return survivor.passed.startswith(("st.shared", "st.global", "tcgen05.st"))
    text = Text(survivor.ptx).stops_if_told_before_wait(survivor.mutant.line - 1)
    return survivor.mutant.family == "drop wait" and survivor.clean(text)


def waited_later(survivor: Survivor) -> bool:
    """Another tcgen05.wait::ld follows on every path."""
    drops = survivor.mutant.family == "drop wait" and survivor.code.startswith("tcgen05.wait::ld")
    return drops and Text(survivor.ptx).waits_for_loads_after(survivor.mutant.line - 1)


def waited_before_end(survivor: Survivor) -> bool:
    """Another tcgen05.wait::ld follows before the thread ends, on every path that any took."""
    drops = survivor.mutant.family == "drop wait" and survivor.code.startswith("tcgen05.wait::ld")
    text = Text(survivor.ptx)
    return drops and survivor.clean(text.stops_if_ended_before_wait(survivor.mutant.line - 1))


def later_commit(survivor: Survivor) -> bool:
    """A wait for another commit than its own, which the same role issues later."""
    wait = WAIT.search(survivor.code)
    other = WAIT.search(survivor.mutant.text.split("\n")[survivor.mutant.line - 1])
    if survivor.mutant.family != "change stage" or not wait or not other:
        return False
    text = Text(survivor.ptx)
    own, later = (text.arrivals(found[3]) for found in (wait, other))
    if len(own) != 1 or len(later) != 1:
        return False
    commits = all("tcgen05.commit" in text.lines[at] for at in (*own, *later))
    in_order = later[0] in text.reachable(own[0]) and own[0] not in text.reachable(later[0])
    return commits and in_order


def not_for_load(survivor: Survivor) -> bool:
    """A wait that passes a load from tensor memory."""
    loads = survivor.passed.startswith("tcgen05.ld")
    return survivor.mutant.family == "move wait" and loads and "try_wait" in survivor.code
