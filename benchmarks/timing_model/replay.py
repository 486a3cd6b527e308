"""A recorded launch in cycles: what its warps did, at the pace of the units that did it.

Warps issue in order: an instruction needs its sub-partition's slot, its pipe, the stall count and
the scoreboards that ptxas gave it. What it waits for and starts beyond that is in events.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from benchmarks.timing_model.events import Events, Key
from benchmarks.timing_model.listing import NO_BARRIER, Listing
from benchmarks.timing_model.spans import Result, Span
from benchmarks.timing_model.state import Core, Warp
from benchmarks.timing_model.streams import Stream
from benchmarks.timing_model.units import MEMORY, SPECIAL, Chip, cost_of


class Replay(Events):
    """One launch on one chip; every CTA has a multiprocessor to itself.

    `fresh` says of a copy, by the phase that it arrives at, how much of it device memory brings for
    this CTA alone; where several ask for the same, each has its part. By default L2 has it all.
    """

    def __init__(
        self,
        found: list[Stream],
        listing: Listing,
        chip: Chip,
        cluster: int = 1,
        fresh: Callable[[Key], float] | None = None,
    ) -> None:
        super().__init__(found, listing, chip, cluster, fresh)
        self.costs = [cost_of(sass, chip) for sass in listing.code]
        self.boards = [
            tuple(board for board in range(6) if sass.waits >> board & 1) for sass in listing.code
        ]
        self.warps = [Warp(stream, self.cores[stream.cta]) for stream in found]
        self.heap: list[tuple[float, int, Warp | Core]] = []
        self.order = 0

    def _resume(self, warp: Warp, since: float, when: float) -> None:
        """Go on after a wait that began at `since` and is over at `when`."""
        stream = warp.stream
        index = stream.code[warp.at]
        sass = self.listing.code[index]
        if when > since:
            name = stream.events[warp.at].opcode if warp.at in stream.events else sass.opcode
            span = Span(warp.cta, stream.warp, name, since, when, sass.line)
            self.result.spans.append(span)
        when = max(when, since)
        if sass.sets != NO_BARRIER:
            warp.boards[sass.sets] = max(warp.boards[sass.sets], when)
        warp.at += 1
        self._push(warp, max(when, since + max(sass.stall, 1)))

    def _push(self, thing: Warp | Core, when: float) -> None:
        self.order += 1
        heapq.heappush(self.heap, (when, self.order, thing))

    def run(self) -> Result:
        """Every warp to its end; RuntimeError if some wait for ever."""
        for warp in self.warps:
            self._push(warp, 0.0)
        heap = self.heap
        while heap:
            now, _, thing = heapq.heappop(heap)
            if isinstance(thing, Core):
                self._end_product(thing, now)
            else:
                self._advance(thing, now)
        stuck = [w.stream for w in self.warps if w.at < len(w.stream.code)]
        if stuck:
            raise RuntimeError(f"{len(stuck)} warps wait for ever, first warp {stuck[0].warp}")
        return self.result

    def _advance(self, warp: Warp, now: float) -> None:
        """Issue this warp's instructions until it waits or another is due."""
        stream, core, sub, heap = warp.stream, warp.core, warp.sub, self.heap
        code, events, listing = stream.code, stream.events, self.listing.code
        pipes, boards = core.pipes[sub], warp.boards
        while warp.at < len(code):
            index = code[warp.at]
            cost = self.costs[index]
            for board in self.boards[index]:
                if boards[board] > now:
                    now = boards[board]
            sass = listing[index]
            if sass.name == "FENCE" and "ASYNC.T" in sass.opcode and warp.fence > now:
                now = warp.fence
            shared = core.pipes[0] if cost.pipe == MEMORY else pipes
            when = max(now, core.issue[sub], shared[cost.pipe])
            if heap and when > heap[0][0]:
                self._push(warp, when)
                return
            now = when
            beside = core.queue.current is not None
            cycles = cost.beside if beside else cost.cycles
            core.issue[sub] = now + 1
            shared[cost.pipe] = now + cycles
            self.result.issued[warp.cta, stream.warp] += 1
            if cost.pipe == SPECIAL:
                self.result.busy[warp.cta, "special"] += cost.cycles
            event = events.get(warp.at)
            if event is not None:
                on = self._event(warp, event, now)
                if on is None:
                    return
                if on > now:
                    self._resume(warp, now, on)
                    return
            done = now + (cost.late if beside else cost.latency)
            if sass.name == "STTM":
                warp.fence = max(warp.fence, done)
            if sass.sets != NO_BARRIER:
                boards[sass.sets] = max(boards[sass.sets], done)
            if sass.reads != NO_BARRIER:
                boards[sass.reads] = max(boards[sass.reads], now + cost.cycles + 8)
            now += max(sass.stall, 1)
            warp.at += 1
        self.result.warp_end[warp.cta, stream.warp] = now
        self.result.end[warp.cta] = max(self.result.end.get(warp.cta, 0.0), now)
