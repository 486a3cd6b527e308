"""What the reasons ask of a kernel's text: what can come after a line, and what waits protect."""

from __future__ import annotations

import functools
import re

FAULT = "mbarrier.arrive.shared.b64 _, [7];"  # a finding, wherever it is executed
WAIT = re.compile(r"mbarrier\.try_wait(\S*)\s+(\S+), (\[[^\]]*\]), (\S+?)(, \S+)?;")

# What accesses memory, or starts what does. To announce bytes (expect_tx) does not.
_ACCESSES = re.compile(
    r"^(?:@\S+\s+)?(?:ld\.(?!param)|st\.|red\.|atom\.|stmatrix|ldmatrix|cp\.async\.c[ag]"
    r"|cp\.(?:reduce\.)?async\.bulk\.(?:tensor|shared|global)|clusterlaunchcontrol\.try"
    r"|wgmma\.mma|tcgen05\.(?:mma|ld|st|commit|dealloc))"
)
# Where lanes of a warp, or all threads, meet; every role begins after the latter.
_MEETS = re.compile(r"bar\.warp\.sync|(?:bar|barrier)\.sync|setmaxnreg")
AFTER, BEFORE = (f"tcgen05.fence::{side}_thread_sync" for side in ("after", "before"))
_LEARNS = r"mbarrier\.(?:try|test)_wait|bar(?:rier)?\.(?:warp\.|cluster\.)?(?:sync|wait)"
_TELLS = r"mbarrier\.arrive|tcgen05\.commit|\b(?:bar|barrier)\.(?:sync|arrive)\b"
_PRODUCT, _NO_PRODUCT, _COMMIT = r"tcgen05\.mma", r"tcgen05\.(?:ld|st|cp|shift)", r"tcgen05\.commit"
_TENSOR_MEMORY = f"{_PRODUCT}|{_NO_PRODUCT}"
_SCORES = re.compile(r"tcgen05\.mma\S*\s+\[[^\]]*\], %rd")
_BRANCH = re.compile(r"^(@\S+\s+)?bra(?:\.uni)?\s+(\$\w+);")


def _declaring(lines: list[str], predicates: tuple[str, ...], numbers: tuple[str, ...]) -> str:
    """The kernel with these registers; every number is zero at the start."""
    start = [f".reg .pred {name};" for name in predicates]
    start += [f".reg .u32 {name}; mov.u32 {name}, 0;" for name in numbers]
    body = lines.index("{")
    return "\n".join([*lines[:body], f"{{ {' '.join(start)}", *lines[body + 1 :]])


class Text:
    """A kernel's lines, numbered from 0."""

    def __init__(self, ptx: str) -> None:
        self.lines = [line.strip() for line in ptx.split("\n")]
        self.labels = {line[:-1]: i for i, line in enumerate(self.lines) if line.endswith(":")}

    def _next(self, line: int) -> list[int]:
        """The lines that may come directly after this one; setmaxnreg begins another role."""
        code = self.lines[line]
        branch = _BRANCH.match(code)
        found = [self.labels[branch[2]]] if branch else []
        ends = code.startswith(("ret", "setmaxnreg")) or (branch and not branch[1])
        return found if ends or line + 1 == len(self.lines) else [*found, line + 1]

    def reachable(self, line: int) -> set[int]:
        """The lines that a role may execute after this one."""
        seen: set[int] = set()
        open_ = self._next(line)
        while open_:
            at = open_.pop()
            if at not in seen:
                seen.add(at)
                open_ += self._next(at)
        return seen

    def _meets(self, line: int, wanted: str, stop: str, steps: list[list[int]]) -> bool:
        """Whether steps from this line come to `wanted` before they come to `stop`."""
        seen: set[int] = set()
        open_ = list(steps[line])
        while open_:
            at = open_.pop()
            if at in seen or re.search(stop, self.lines[at]):
                continue
            seen.add(at)
            if re.search(wanted, self.lines[at]):
                return True
            open_ += steps[at]
        return False

    def fenced_elsewhere(self, line: int) -> bool:
        """Whether other fences order all that the tcgen05.fence at this line orders."""
        later, earlier = [self._next(at) for at in range(len(self.lines))], self._earlier()
        if self.lines[line].startswith(AFTER):
            ahead = self._meets(line, _TENSOR_MEMORY, AFTER, later)
            behind = self._meets(line, _LEARNS, AFTER, earlier)
        else:
            ahead = self._meets(line, f"{_TELLS}|{_TENSOR_MEMORY}", BEFORE, later)
            # A commit tells of the products of its lane, which issues all; but it does not keep
            # the lane's own next ones behind them.
            fences = BEFORE if self.multiplies_after(line) else f"{BEFORE}|{_COMMIT}"
            behind = self._meets(line, _PRODUCT, fences, earlier)
            behind = behind or self._meets(line, _NO_PRODUCT, BEFORE, earlier)
        return not (ahead and behind)

    def accesses_after(self, line: int) -> bool:
        """Whether anything after this line touches memory."""
        return any(_ACCESSES.match(self.lines[at]) for at in self.reachable(line))

    def last_waits(self) -> list[int]:
        """Waits after which nothing touches memory: they protect nothing."""
        waits = (i for i, line in enumerate(self.lines) if WAIT.search(line))
        return [i for i in waits if not self.accesses_after(i)]

    def before(self, line: int) -> str:
        """The instruction that stands before it."""
        at = line - 1
        while at > 0 and (not self.lines[at].endswith(";") or self.lines[at].startswith("//")):
            at -= 1
        return self.lines[at]

    def met_before(self, line: int) -> bool:
        """Whether nothing touches memory between the last place before it where lanes meet."""
        for code in reversed(self.lines[:line]):
            if _MEETS.match(code):
                return True
            if _ACCESSES.match(code):
                return False
        return False

    def stops_if_told_before_wait(self, line: int) -> str:
        """The kernel without the tcgen05.wait::ld at `line`, which stops where a thread arrives
        somewhere after it and before another such wait."""
        return self._stops_before_wait(line, _TELLS)

    def stops_if_ended_before_wait(self, line: int) -> str:
        """The same, which stops where a thread ends."""
        return self._stops_before_wait(line, r"\bret;")

    def _stops_before_wait(self, line: int, stop: str) -> str:
        text = list(self.lines)
        for at, code in enumerate(text):
            if code.startswith("tcgen05.wait::ld"):
                text[at] = f"mov.u32 open, {int(at == line)}; {code if at != line else ''}"
            elif re.search(stop, code):
                text[at] = f"setp.ne.u32 is_open, open, 0; @is_open {FAULT} {code}"
        return _declaring(text, ("is_open",), ("open",))

    def multiplies_after(self, line: int) -> bool:
        """Whether the role issues products after this line."""
        return any(re.search(_PRODUCT, self.lines[at]) for at in self.reachable(line))

    def stops_at_scores_after(self, line: int) -> str:
        """The kernel that stops at a product with A in shared memory, once it was at `line`."""
        text = list(self.lines)
        for at, code in enumerate(text):
            if _SCORES.match(code):
                text[at] = f"setp.ne.u32 is_after, after, 0; @is_after {FAULT} {code}"
        text[line] = f"mov.u32 after, 1; {text[line]}"
        return _declaring(text, ("is_after",), ("after",))

    def stops_if_used_before_over(self, line: int, instead: str) -> str:
        """The kernel with another statement in place of the wait at `line`, which stops where a
        thread that was there next touches memory, or tells others, and the phase is not over."""
        _, _, address, parity, _ = WAIT.search(self.lines[line]).groups()
        register, offset = re.fullmatch(r"\[(%\w+)\s*(?:\+\s*(\d+))?\]", address).groups()
        text = list(self.lines)
        for at, code in enumerate(text):
            if _ACCESSES.match(code) or re.search(_TELLS, code):
                text[at] = (
                    "setp.ne.u32 is_open, open, 0; setp.eq.u32 is_over, 0, 0; @is_open mbarrier"
                    ".test_wait.parity.shared.b64 is_over, [open_at], open_parity; "
                    f"@!is_over {FAULT} mov.u32 open, 0; {code}"
                )
        text[line] = (
            f"mov.u32 open, 1; add.u32 open_at, {register}, {offset or 0}; mov.u32 open_parity, "
            f"{parity}; {instead}"
        )
        return _declaring(text, ("is_open", "is_over"), ("open", "open_at", "open_parity"))

    def _earlier(self) -> list[list[int]]:
        """Of every line those that it may come directly after."""
        earlier: list[list[int]] = [[] for _ in self.lines]
        for at in range(len(self.lines)):
            for other in self._next(at):
                earlier[other].append(at)
        return earlier

    def _leading_to(self, line: int) -> set[int]:
        """This line, and the lines of its role from which it may be reached."""
        earlier, found, open_ = self._earlier(), {line}, [line]
        while open_:
            before = set(earlier[open_.pop()]) - found
            found |= before
            open_ += before
        return found

    def stops_at_tensor_memory(self, line: int) -> str:
        """The kernel in which a warp ends where it comes to `line`, or cannot come there any more,
        and which stops where any thread touches tensor memory."""
        text = [FAULT if re.search(_TENSOR_MEMORY, code) else code for code in self.lines]
        leading = self._leading_to(line)
        for at in leading - {line}:
            branch = _BRANCH.match(self.lines[at])
            if branch and self.labels[branch[2]] not in leading:
                text[at] = f"{branch[1] or ''}ret;"
            elif branch and branch[1] and at + 1 not in leading:
                text[at] += " ret;"
        text[line] = "ret;"
        return "\n".join(text)

    def releases_after(self, line: int) -> bool:
        """Whether on every path a releasing barrier.cluster.arrive is next to synchronise."""
        steps = [self._next(at) for at in range(len(self.lines))]
        others = f"{_TELLS}|{_LEARNS}|barrier\\.cluster|^ret|setmaxnreg"
        return not self._meets(line, others, r"barrier\.cluster\.arrive(?!\.relaxed)", steps)

    def waits_for_loads_after(self, line: int) -> bool:
        """Whether a thread comes to another tcgen05.wait::ld after this line, whatever its way."""
        steps = [self._next(at) for at in range(len(self.lines))]
        return not self._meets(line, "^ret", "tcgen05.wait::ld", steps)

    def fences_after(self, line: int) -> list[int]:
        """The fences like the one at this line that its role may come to after it."""
        kind = next(kind for kind in (AFTER, BEFORE) if self.lines[line].startswith(kind))
        return [at for at in self.reachable(line) if self.lines[at].startswith(kind)]

    def arrivals(self, address: str) -> list[int]:
        """The lines that arrive at the mbarrier of an address in brackets, as far as the sums of
        registers and numbers that both addresses are tell."""
        wanted = self._place(address)
        told = re.compile(r"(?:mbarrier\.arrive|tcgen05\.commit|complete_tx)[^;]*?(\[%\w[^\]]*\])")
        found = ((at, told.findall(line)) for at, line in enumerate(self.lines))
        return [at for at, places in found if wanted in map(self._place, places)]

    def _place(self, address: str) -> tuple[str, int]:
        """Register and number whose sum it is, back to one that is no such sum or not always."""
        register, offset = re.fullmatch(r"\[(%\w+)\s*(?:\+\s*(\d+))?\]", address).groups()
        total = int(offset or 0)
        while len(made := self._sums.get(register, [])) == 1:
            register, more = made[0]
            total += more
        return register, total

    @functools.cached_property
    def _sums(self) -> dict[str, list[tuple[str, int]]]:
        sums: dict[str, list[tuple[str, int]]] = {}
        for line in self.lines:
            made = re.match(r"add\.s32\s+(%\w+), (%\w+), (\d+);", line)
            if made:
                sums.setdefault(made[1], []).append((made[2], int(made[3])))
        return sums

    def near(self, code: str, line: int) -> int:
        """The line nearest to `line` that begins so."""
        places = [i for i, text in enumerate(self.lines) if text.startswith(code)]
        return min(places, key=lambda i: abs(i - line))

    def without(self, lines: list[int]) -> str:
        """The kernel without these instructions; a wait is over at once."""
        text = list(self.lines)
        for at in lines:
            wait = WAIT.search(text[at])
            text[at] = f"setp.eq.u32 {wait[2]}, 0, 0;" if wait else ""
        return "\n".join(text)
