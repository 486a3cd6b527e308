"""A recorded launch in cycles: what its warps did, at the pace of the units that did it.

Warps issue in order: an instruction needs its sub-partition's slot, its pipe, the stall count and
the scoreboards that ptxas gave it. What synchronises does so by the recorded phases: a phase is
over when all that arrived in it while recording has arrived here. Copies and products are
finished by units that serve in order, so that their end is known when they are issued.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.timing_model.listing import NO_BARRIER, Listing
from benchmarks.timing_model.spans import Result, Span
from benchmarks.timing_model.state import Core, Warp
from benchmarks.timing_model.streams import Event, Stream
from benchmarks.timing_model.units import (
    MEMORY,
    SPECIAL,
    Chip,
    cost_of,
    product_cycles,
)

WARPGROUP = 4  # warps
WARPGROUP_ROWS = 64
_DEPTH = 16  # of one tcgen05.mma with operands of 16 bits
_RANK = 24  # bits of a shared::cluster address below the CTA's rank

Key = tuple[Any, ...]


class Replay:
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
        self.chip, self.listing, self.cluster, self.fresh = chip, listing, cluster, fresh
        self.costs = [cost_of(sass, chip) for sass in listing.code]
        self.boards = [
            tuple(board for board in range(6) if sass.waits >> board & 1) for sass in listing.code
        ]
        self.cores = {stream.cta: Core() for stream in found}
        self.warps = [Warp(stream, self.cores[stream.cta]) for stream in found]
        self.missing: Counter[Key] = Counter()
        self.over: dict[Key, float] = {}
        self.waiting: dict[Key, list[tuple[Warp, float]]] = defaultdict(list)
        self.result = Result({}, {})
        self.heap: list[tuple[float, int, Warp]] = []
        self.order = 0
        for stream in found:
            for event in stream.events.values():
                self.missing.update(key for key, _ in self._arrivals(stream, event))

    # ---- what events are about

    def _key(self, stream: Stream, thing: int) -> Key:
        return (stream.cta // self.cluster, thing)

    def _products_key(self, stream: Stream, number: int) -> Key:
        """Group `number` of a warpgroup's products."""
        return (stream.cta, "wgmma", stream.warp // WARPGROUP, number)

    def _arrivals(self, stream: Stream, event: Event) -> Iterable[tuple[Key, int]]:
        """The phases that an event arrives at, and the bytes that come with it."""
        group = stream.cta // self.cluster
        opcode = event.opcode
        if opcode.startswith(("bar.", "barrier.cta", "barrier.sync", "barrier.arrive")):
            return [((group, "bar", stream.cta, o, p), 0) for o, p, _ in event.about[:1]]
        if opcode.startswith("barrier.cluster.arrive"):
            return [((group, "cluster", p), 0) for _, p, _ in event.about[:1]]
        if opcode.startswith("mbarrier.arrive"):
            return [((group, o, p), 0) for o, p, _ in event.about]
        if opcode.startswith("wgmma.mma_async"):
            return [(self._products_key(stream, p), 0) for _, p, _ in event.started]
        if opcode.startswith("tcgen05.commit") or (
            opcode.startswith("cp.async.bulk") and "mbarrier" in opcode
        ):
            return [((group, o, p), size) for o, p, size in event.started]
        return []

    def _arrive(self, key: Key, when: float) -> None:
        self.over[key] = max(self.over.get(key, 0.0), when)
        self.missing[key] -= 1
        if self.missing[key] == 0:
            for warp, since in self.waiting.pop(key, ()):
                self._resume(warp, since, self.over[key] + self.chip.wake)

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

    def _push(self, warp: Warp, when: float) -> None:
        self.order += 1
        heapq.heappush(self.heap, (when, self.order, warp))

    # ---- what events do

    def _event(self, warp: Warp, event: Event, now: float) -> float | None:
        """When the warp may go on, or None if nobody knows yet."""
        opcode = event.opcode
        for word, handle in _HANDLERS:
            if opcode.startswith(word):
                return handle(self, warp, event, now)
        return now

    def _wait(self, warp: Warp, key: Key, now: float) -> float | None:
        if self.missing[key] > 0:
            self.waiting[key].append((warp, now))
            return None
        over = self.over.get(key, -1e9) + self.chip.wake
        return max(now, over)

    def _try_wait(self, warp: Warp, event: Event, now: float) -> float | None:
        thing, phase, _ = event.about[0]
        if phase < 0:
            return now
        return self._wait(warp, (warp.cta // self.cluster, thing, phase), now)

    def _arrival(self, warp: Warp, event: Event, now: float) -> float:
        rank = warp.cta % self.cluster
        for key, _ in self._arrivals(warp.stream, event):
            remote = isinstance(key[1], int) and key[1] >> _RANK != rank and self.cluster > 1
            self._arrive(key, now + (self.chip.remote_latency if remote else 0))
        return now

    def _barrier(self, warp: Warp, event: Event, now: float) -> float | None:
        ((key, _),) = self._arrivals(warp.stream, event)
        waits = ".sync" in event.opcode
        if waits and self.missing[key] > 1:
            self.waiting[key].append((warp, now))
        self._arrive(key, now)
        if not waits:
            return now
        return max(now, self.over[key] + self.chip.wake) if self.missing[key] == 0 else None

    def _cluster_wait(self, warp: Warp, event: Event, now: float) -> float | None:
        # Recorded is the phase that the barrier is in by then: the next one.
        return self._wait(warp, (warp.cta // self.cluster, "cluster", event.about[0][1] - 1), now)

    def _product(self, warp: Warp, event: Event, now: float) -> float:
        from_shared = "gdesc" in self.listing.code[warp.stream.code[warp.at]].operands.split(",")[0]
        pair = 2 if "cta_group::2" in event.opcode else 1
        first = warp.cta - warp.cta % pair
        cores = [self.cores[cta] for cta in range(first, first + pair)]
        for _, _, amount in event.started:
            columns = amount // (128 * pair * _DEPTH)
            # Each CTA of a pair holds its rows and half of the columns, which both multiply by.
            cycles = max(
                product_cycles(128, columns, _DEPTH, False, self.chip),
                product_cycles(128, columns // pair, _DEPTH, from_shared, self.chip),
            )
            begin = max(now, *(core.tensor for core in cores))
            end = begin + cycles
            done = end + self.chip.product_latency[pair, not from_shared] - self.chip.wake
            for cta, core in zip(range(first, first + pair), cores, strict=True):
                core.tensor = end
                core.products[warp.stream.warp] = max(core.products[warp.stream.warp], done)
                self.result.busy[cta, "tensor"] += cycles  # type: ignore[assignment]
                self._note(cta, warp.stream.warp, f"product {columns} {from_shared}", begin, end)
        return now

    def _warpgroup_product(self, warp: Warp, event: Event, now: float) -> float:
        """It begins once all four warps have issued it."""
        a = self.listing.code[warp.stream.code[warp.at]].operands.split(",")[1]
        in_registers = "gdesc" not in a
        ((key, _),) = self._arrivals(warp.stream, event)
        warp.products += 1
        place = (warp.stream.warp // WARPGROUP, warp.products)
        issued = warp.core.issued.setdefault(place, [])
        issued.append(now)
        if len(issued) < WARPGROUP:
            self._arrive(key, now)
            return now
        del warp.core.issued[place]
        columns = event.started[0][2] // (WARPGROUP_ROWS // WARPGROUP * _DEPTH)
        cycles = product_cycles(WARPGROUP_ROWS, columns, _DEPTH, not in_registers, self.chip)
        begin = max(*issued, warp.core.tensor)
        warp.core.tensor = end = begin + cycles
        self.result.busy[warp.cta, "tensor"] += cycles  # type: ignore[assignment]
        what = f"product {columns} {not in_registers}"
        self._note(warp.cta, warp.stream.warp, what, begin, end)
        self._arrive(key, end + self.chip.product_latency[1, in_registers] - self.chip.wake)
        return now

    def _products_wait(self, warp: Warp, event: Event, now: float) -> float | None:
        _, number, _ = event.about[0]
        return self._wait(warp, self._products_key(warp.stream, number), now)

    def _commit(self, warp: Warp, event: Event, now: float) -> float:
        done = max(now, warp.core.products[warp.stream.warp])
        for key, _ in self._arrivals(warp.stream, event):
            self._arrive(key, done)
        return now

    def _load(self, warp: Warp, event: Event, now: float) -> float:
        core = warp.core
        for key, size in self._arrivals(warp.stream, event):
            begin = max(now, core.load)
            core.load = begin + size / self.chip.load_bytes
            fresh = size * self.fresh(key) if self.fresh else 0.0
            core.memory = max(now, core.memory) + fresh / self.chip.memory_bytes
            latency = self.chip.memory_latency if fresh else self.chip.load_latency
            done = max(core.load, core.memory) + latency
            self._note(warp.cta, warp.stream.warp, "load", begin, done)
            self._arrive(key, done)
        return now

    def _store(self, warp: Warp, event: Event, now: float) -> float:
        for _, group, size in event.started:
            done = now + self.chip.store_read_latency + size / self.chip.smem_bytes
            if self.fresh:
                warp.core.memory = max(now, warp.core.memory) + size / self.chip.memory_bytes
            warp.copies[group] = max(warp.copies.get(group, 0.0), done)
            self._note(warp.cta, warp.stream.warp, "store", now, done)
        return now

    def _copy(self, warp: Warp, event: Event, now: float) -> float:
        return (self._load if "mbarrier" in event.opcode else self._store)(warp, event, now)

    def _store_wait(self, warp: Warp, event: Event, now: float) -> float:
        _, until, _ = event.about[0]
        return max([now, *(done for group, done in warp.copies.items() if group <= until)])

    def _note(self, cta: int, warp: int, what: str, begin: float, end: float) -> None:
        self.result.spans.append(Span(cta, warp, what, begin, end))

    # ---- the clock

    def run(self) -> Result:
        """Every warp to its end; RuntimeError if some wait for ever."""
        for warp in self.warps:
            self._push(warp, 0.0)
        heap = self.heap
        while heap:
            now, _, warp = heapq.heappop(heap)
            self._advance(warp, now)
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
            core.issue[sub] = now + 1
            shared[cost.pipe] = now + cost.cycles
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
            done = now + cost.latency
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


_Handler = Callable[[Replay, Warp, Event, float], "float | None"]
_HANDLERS: tuple[tuple[str, _Handler], ...] = (
    ("mbarrier.try_wait", Replay._try_wait),
    ("mbarrier.test_wait", Replay._try_wait),
    ("mbarrier.arrive", Replay._arrival),
    ("tcgen05.mma", Replay._product),
    ("wgmma.mma_async", Replay._warpgroup_product),
    ("wgmma.wait_group", Replay._products_wait),
    ("tcgen05.commit", Replay._commit),
    ("barrier.cluster.arrive", Replay._arrival),
    ("barrier.cluster.wait", Replay._cluster_wait),
    ("bar", Replay._barrier),
    ("cp.async.bulk.wait_group", Replay._store_wait),
    ("cp.async.bulk.commit_group", lambda self, warp, event, now: now),
    ("cp.async.bulk", Replay._copy),
)
