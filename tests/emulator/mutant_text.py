"""What the reasons ask of a kernel's text: what can come after a line, and what waits protect."""

from __future__ import annotations

import re

FAULT = "mbarrier.arrive.shared.b64 _, [7];"  # a finding, wherever it is executed
WAIT = re.compile(r"mbarrier\.try_wait(\S*)\s+(\S+), (\[[^\]]*\]), (\S+?)(, \S+)?;")

# What accesses memory, or starts what does. To announce bytes (expect_tx) does not.
_ACCESSES = re.compile(
    r"^(?:@\S+\s+)?(?:ld\.(?!param)|st\.|red\.|atom\.|cp\.async\.bulk\.(?:tensor|shared|global)"
    r"|wgmma\.mma|tcgen05\.(?:mma|ld|st|commit))"
)
# Where lanes of a warp, or all threads, meet; every role begins after the latter.
_MEETS = re.compile(r"bar\.warp\.sync|(?:bar|barrier)\.sync|setmaxnreg")
_TELLS = re.compile(r"mbarrier\.arrive|tcgen05\.commit|\b(?:bar|barrier)\.(?:sync|arrive)\b")
_SCORES = re.compile(r"tcgen05\.mma\S*\s+\[[^\]]*\], %rd")
_BRANCH = re.compile(r"^(@\S+\s+)?bra(?:\.uni)?\s+(\$\w+);")


class Text:
    """A kernel's lines, numbered from 0."""

    def __init__(self, ptx: str) -> None:
        self.lines = [line.strip() for line in ptx.split("\n")]
        self.labels = {line[:-1]: i for i, line in enumerate(self.lines) if line.endswith(":")}

    def reachable(self, line: int) -> set[int]:
        """The lines that a role may execute after this one; setmaxnreg begins another role."""
        seen: set[int] = set()
        open_ = [line + 1]
        while open_:
            at = open_.pop()
            while at < len(self.lines) and at not in seen:
                seen.add(at)
                code = self.lines[at]
                if code.startswith("setmaxnreg"):
                    break
                branch = _BRANCH.match(code)
                if branch:
                    open_.append(self.labels[branch[2]])
                if code.startswith("ret") or (branch and not branch[1]):
                    break
                at += 1
        return seen

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
        text = list(self.lines)
        for at, code in enumerate(text):
            if code.startswith("tcgen05.wait::ld"):
                text[at] = f"mov.u32 open, {int(at == line)}; {code if at != line else ''}"
            elif _TELLS.search(code):
                text[at] = f"setp.ne.u32 is_open, open, 0; @is_open {FAULT} {code}"
        text[text.index("{")] = "{ .reg .pred is_open; .reg .u32 open; mov.u32 open, 0;"
        return "\n".join(text)

    def stops_at_scores_after(self, line: int) -> str:
        """The kernel that stops at a product with A in shared memory, once it was at `line`."""
        text = list(self.lines)
        for at, code in enumerate(text):
            if _SCORES.match(code):
                text[at] = f"setp.ne.u32 is_after, after, 0; @is_after {FAULT} {code}"
        text[line] = f"mov.u32 after, 1; {text[line]}"
        text[text.index("{")] = "{ .reg .pred is_after; .reg .u32 after; mov.u32 after, 0;"
        return "\n".join(text)

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
