"""What a machine checks of the fences whose mutants nothing caught."""

from __future__ import annotations

import re

from mutant_checks import Survivor
from mutant_text import AFTER, BEFORE, Text


def fence_stays_behind(survivor: Survivor) -> bool:
    """A wait that passes a tcgen05.fence::before_thread_sync."""
    waits = survivor.mutant.family == "move wait" and "try_wait" in survivor.code
    return waits and survivor.passed.startswith(BEFORE)


def no_other_cta(survivor: Survivor) -> bool:
    return survivor.code.startswith("fence.mbarrier_init") and survivor.clusters == 1


def fenced_again(survivor: Survivor) -> bool:
    """Another fence of the same kind stands between it and the cluster's barrier."""
    rest = "\n".join(survivor.lines[survivor.mutant.line :]).split("barrier.cluster.arrive")[0]
    return survivor.code.startswith("fence.mbarrier_init") and "fence.mbarrier_init" in rest


def released_anyway(survivor: Survivor) -> bool:
    """The cluster's barrier behind it releases all that came before, mbarrier.init too."""
    fence = survivor.code.startswith("fence.mbarrier_init") and "fence" in survivor.mutant.family
    return fence and Text(survivor.ptx).releases_after(survivor.mutant.line - 1)


def another_fence(survivor: Survivor) -> bool:
    return survivor.code.startswith("wgmma.fence") and survivor.ptx.count("wgmma.fence") > 1


def fence_passes_wait(survivor: Survivor) -> bool:
    moves = survivor.mutant.family == "move fence" and survivor.mutant.what.startswith("later")
    proxy = survivor.code.startswith("fence.proxy.async")
    return moves and proxy and survivor.passed.startswith("mbarrier.try_wait")


def fence_passes_arrival(survivor: Survivor) -> bool:
    moves = survivor.mutant.family == "move fence" and survivor.mutant.what.startswith("earlier")
    proxy = survivor.code.startswith("fence.proxy.async")
    beyond = ("mbarrier.arrive", "tcgen05.fence::before_thread_sync")
    return moves and proxy and survivor.passed.startswith(beyond)


def no_fence_needed(survivor: Survivor) -> bool:
    """A wait that passes the fence behind it, and not the product."""
    fence = survivor.passed.startswith("tcgen05.fence::after_thread_sync")
    return survivor.mutant.family == "move wait" and fence and "try_wait" in survivor.code


def fenced_elsewhere(survivor: Survivor) -> bool:
    """A tcgen05.fence, dropped or passed, that has another between it and what it orders."""
    text, here = Text(survivor.ptx), survivor.mutant.line - 1
    if survivor.mutant.family == "move wait" and survivor.passed.startswith(BEFORE):
        here = text.near(survivor.passed, here)
    elif survivor.mutant.family != "drop fence":
        return False
    return text.lines[here].startswith((AFTER, BEFORE)) and text.fenced_elsewhere(here)


def nothing_before(survivor: Survivor) -> bool:
    """A fence before which nobody has touched tensor memory, and which no thread meets again."""
    if not survivor.code.startswith(AFTER):
        return False
    text, here = Text(survivor.ptx), survivor.mutant.line - 1
    if survivor.mutant.family != "drop fence" or here in text.reachable(here):
        return False
    return survivor.kinds(text.stops_at_tensor_memory(here)) <= {"", "deadlock"}


def no_more_scores(survivor: Survivor) -> bool:
    """A fence between products, after which comes none that takes A from shared memory."""
    text, here = Text(survivor.ptx), survivor.mutant.line - 1
    if not survivor.code.startswith(BEFORE) or not text.multiplies_after(here):
        return False
    return survivor.clean(text.stops_at_scores_after(here))


def fenced_behind(survivor: Survivor) -> bool:
    """A fence whose work others behind it do: without it and them there is a race."""
    text, here = Text(survivor.ptx), survivor.mutant.line - 1
    if survivor.mutant.family != "drop fence" or not survivor.code.startswith(BEFORE):
        return False
    behind = text.fences_after(here)
    return bool(behind) and "race" in survivor.kinds(text.without([here, *behind]))


def fence_of_reader(survivor: Survivor) -> bool:
    pair = (survivor.code, survivor.passed)
    return (
        survivor.mutant.family.startswith("move")
        and any("fence.proxy.async" in x for x in pair)
        and any(re.match(r"(?:bar|barrier)\.(?:warp\.)?sync", x) for x in pair)
    )
