"""Why a mutant that nothing caught is the same kernel: reasons that a machine has checked.

That a survivor gives the kernel's own bits and no finding under every completion, with all checks
on, says already that what it lacks orders nothing: every two accesses that conflict are ordered by
something else. The reasons here say what that is.
"""

from __future__ import annotations

from collections.abc import Callable

import mutant_checks as checks
import mutant_fences as fences
from mutant_checks import Survivor

REASONS: tuple[tuple[Callable[[Survivor], bool], str], ...] = (
    (
        fences.no_other_cta,
        "orders mbarrier.init for other CTAs of the cluster, and the cluster is one CTA "
        "(checked: the launch)",
    ),
    (
        fences.fenced_again,
        "another fence.mbarrier_init comes before the cluster's barrier (checked: the text)",
    ),
    (
        fences.released_anyway,
        "the cluster's barrier comes next and its arrival is not relaxed: it makes all memory "
        "accesses before it visible to the threads that wait (PTX ISA 9.7.13.3; checked: the text)",
    ),
    (
        checks.own_address,
        "nobody else reads the address that tcgen05.alloc writes, and other warps touch tensor "
        "memory only after a product (checked: the text; races of tensor memory)",
    ),
    (
        checks.renamed,
        "all warps of this barrier meet here at another that nobody else uses (checked: the text, "
        "and where a register has the number a kernel that stops at the new one; were some of them "
        "elsewhere, there would be a deadlock)",
    ),
    (
        checks.last_wait,
        "nothing that can come after it touches memory, and a CTA lives until its last warp "
        "exits (checked: the text's control flow)",
    ),
    (
        checks.already_over,
        "whenever it is reached its phase is over, so another wait has ordered the same (checked: "
        "a kernel that stops where it is not, under every schedule)",
    ),
    (
        checks.over_when_used,
        "the next thing that touches memory or tells others finds its phase over: the waits "
        "between the two take as long (checked: a kernel that stops there if it is not, under "
        "every schedule)",
    ),
    (
        checks.ordered_by_another,
        "it waits for another phase, and when that is over so is its own (checked: a kernel that "
        "stops where it is not, under every schedule)",
    ),
    (
        checks.unused,
        "nobody uses this mbarrier in this kernel (checked: to use one that was never initialised "
        "is a finding)",
    ),
    (
        checks.phase_unwaited,
        "nobody waits for a phase of this mbarrier (checked: one that counts too many arrivals "
        "for a phase to end deadlocks nobody)",
    ),
    (
        checks.arrival_unwaited,
        "nobody waits for the phase that this arrival belongs to: the CTA has one tile, and it is "
        "the last (checked: without it there is no deadlock)",
    ),
    (
        checks.for_last_waits,
        "only waits that protect nothing wait for this arrival (checked: without it and without "
        "them there is no finding)",
    ),
    (
        checks.converged,
        "all lanes have executed a .sync.aligned instruction together just before (checked: the "
        "text)",
    ),
    (
        checks.delays,
        "the arrival comes later, which orders more and not less (checked: no deadlock)",
    ),
    (
        fences.fence_stays_behind,
        "the fence orders the tcgen05 instructions before it with what follows, and of that the "
        "wait is one more (PTX ISA 9.7.16.6.3; checked: it passes nothing but the fence)",
    ),
    (
        checks.read_watched,
        "what was read is overwritten only after a later arrival of the same warp (checked: races "
        "of shared and tensor memory)",
    ),
    (
        checks.alone,
        "it lets other CTAs of the SM allocate tensor memory, and there is none",
    ),
    (
        checks.source_kept,
        "nothing writes the stores' source again, and at level hardware stores may outlive their "
        "thread (checked: a write to the source would be a race)",
    ),
    (
        fences.another_fence,
        "the registers of the next product were not used since another wgmma.fence (checked: the "
        "registers are watched in every run)",
    ),
    (
        checks.only_announced,
        "bytes are announced before the wait, no copy starts before it; the phase that they are "
        "announced for has begun (checked: an arrival too many would be a finding)",
    ),
    (
        checks.no_memory,
        "both are passed before the next access that either orders (checked: no access between)",
    ),
    (
        checks.orders_nothing,
        "the barrier gives turns and orders no memory (checked: a kernel without any of its uses, "
        "under every schedule)",
    ),
    (
        checks.arrives_itself,
        "each of its warps arrives at an mbarrier next, which counts them all (checked: the text)",
    ),
    (
        checks.met_before,
        "the warp's lanes have accessed nothing since they last met, so the one that arrives has "
        "nothing of others to give on (checked: the text; races, which tell lanes that arrive from "
        "others)",
    ),
    (
        fences.fence_passes_wait,
        "the fence stays behind the accesses that it orders and before what is told or started "
        "next: a wait does neither (PTX ISA 9.7.13.4; checked: it passes nothing but the wait)",
    ),
    (
        fences.fence_passes_arrival,
        "the stores that the fence orders are before both places, and the arrival that tells of "
        "them is after both (checked: it passes no access; races of the async proxy)",
    ),
    (
        checks.waited_again,
        "what a tcgen05.ld gives may be used at once (PTX ISA 9.7.16.6.4.5), and another "
        "tcgen05.wait::ld comes before the arrival that lets others overwrite what it read "
        "(checked: a kernel that stops where there is none; races of tensor memory; a write to its "
        "registers would be a finding)",
    ),
    (
        checks.waited_later,
        "what a tcgen05.ld gives may be used at once (PTX ISA 9.7.16.6.4.5), on every path "
        "another tcgen05.wait::ld comes later, and nobody overwrites what it read before that "
        "(checked: the text's control flow; races of tensor memory, where a read that was not "
        "waited for is never over)",
    ),
    (
        checks.waited_before_end,
        "what a tcgen05.ld gives may be used at once (PTX ISA 9.7.16.6.4.5), another "
        "tcgen05.wait::ld comes later wherever a thread went, and nobody overwrites what it read "
        "before that (checked: a kernel that stops where a thread ends without one, under every "
        "schedule; races of tensor memory, where a read that was not waited for is never over)",
    ),
    (
        fences.no_fence_needed,
        "it still comes before the product, and its phase tells of a copy to shared memory, "
        "which the fence does not order (checked: races of tensor memory, where a tcgen05 "
        "instruction without the fence is one)",
    ),
    (
        fences.fenced_elsewhere,
        "on every path another fence of its kind stands between it and the tcgen05 instruction, or "
        "the wait or arrival, that it would order (PTX ISA 9.7.16.6.3; checked: the text's control "
        "flow)",
    ),
    (
        fences.nothing_before,
        "until its warp has passed it nobody touches tensor memory, and it does so once, so there "
        "is nothing that it could order (PTX ISA 9.7.16.6.3; checked: the text; a kernel whose "
        "warp ends there stops at no such instruction, under every schedule)",
    ),
    (
        checks.not_for_load,
        "the load that it passes is ordered by an earlier wait; this one is for what comes behind "
        "(checked: races of tensor memory, in which the load would be a party)",
    ),
    (
        fences.no_more_scores,
        "it keeps the next scores from overwriting P, and after it come no scores: only other "
        "products P V (checked: a kernel that stops at scores after it, under every schedule)",
    ),
    (
        checks.value_unused,
        "the value that it lets others read is of no use to them: a tile's first block has nothing "
        "to scale (checked: with a NaN in its place the results are the same bits)",
    ),
    (
        checks.later_commit,
        "it waits for a later commit of the same thread, which tells of all products before it "
        "(PTX ISA 9.7.16.12.1; checked: the text, where nothing else arrives at either mbarrier)",
    ),
    (
        fences.fenced_behind,
        "the products and loads that it orders are ordered where they need be by the fences of its "
        "kind behind it (checked: without it and them there is a race of tensor memory, under "
        "every schedule there is none without it alone)",
    ),
    (
        fences.fence_of_reader,
        "a proxy fence may stand on the reader's side of the barrier, and the warp that starts the "
        "copy executes it too (PTX ISA 9.7.13.4; checked: races of the async proxy)",
    ),
)


def reason(survivor: Survivor) -> str:
    """Why the survivor is an equivalent; empty if nothing here explains it."""
    return next((why for holds, why in REASONS if holds(survivor)), "")
