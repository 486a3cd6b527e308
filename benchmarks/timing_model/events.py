"""What instructions with events wait for, arrive at and start, and how long that takes.

What synchronises does so by the recorded phases: a phase is over when all that arrived in it while
recording has arrived here. Copies and a thread's products are finished by units that serve in
order, so that their end is known when they are issued; warpgroups' products wait in a queue.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.timing_model.listing import Listing
from benchmarks.timing_model.spans import Result, Span
from benchmarks.timing_model.state import Core, Warp
from benchmarks.timing_model.streams import Event, Stream
from benchmarks.timing_model.tensor import Product
from benchmarks.timing_model.units import Chip, product_cycles

WARPGROUP = 4  # warps
WARPGROUP_ROWS = 64
_DEPTH = 16  # of one product with operands of 16 bits
_RANK = 24  # bits of a shared::cluster address below the CTA's rank

Key = tuple[Any, ...]


class Events:
    """The phases of one launch, and the units that end them."""

    def __init__(
        self,
        found: list[Stream],
        listing: Listing,
        chip: Chip,
        cluster: int = 1,
        fresh: Callable[[Key], float] | None = None,
    ) -> None:
        self.chip, self.listing, self.cluster, self.fresh = chip, listing, cluster, fresh
        self.cores = {stream.cta: Core(stream.cta) for stream in found}
        self.missing: Counter[Key] = Counter()
        self.over: dict[Key, float] = {}
        self.waiting: dict[Key, list[tuple[Warp, float]]] = defaultdict(list)
        self.result = Result({}, {})
        for stream in found:
            for event in stream.events.values():
                self.missing.update(key for key, _ in self._arrivals(stream, event))

    def _resume(self, warp: Warp, since: float, when: float) -> None:
        raise NotImplementedError

    def _push(self, thing: Warp | Core, when: float) -> None:
        raise NotImplementedError

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
            # A pair's are 256 rows, but those of as many multiplications as 128 x 128 have 128.
            rows = 64 if pair == 2 and amount == 128 * 128 * _DEPTH else 128
            columns = amount // (rows * pair * _DEPTH)
            # Each CTA of a pair holds its rows and half of the columns, which both multiply by.
            cycles = max(
                product_cycles(rows, columns, _DEPTH, False, self.chip),
                product_cycles(rows, columns // pair, _DEPTH, from_shared, self.chip),
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

    def _warpgroup_product(self, warp: Warp, event: Event, now: float) -> float | None:
        """It is in the queue once all four warps have issued it."""
        group, queue = warp.stream.warp // WARPGROUP, warp.core.queue
        if queue.is_full:
            queue.blocked.append(warp)
            return None
        ((key, _),) = self._arrivals(warp.stream, event)
        warp.products += 1
        issued = warp.core.issued
        issued[group, warp.products] += 1
        if issued[group, warp.products] < WARPGROUP:
            self._arrive(key, now)
            return now
        del issued[group, warp.products]
        a = self.listing.code[warp.stream.code[warp.at]].operands.split(",")[1]
        in_registers = "gdesc" not in a
        columns = event.started[0][2] // (WARPGROUP_ROWS // WARPGROUP * _DEPTH)
        cycles = product_cycles(WARPGROUP_ROWS, columns, _DEPTH, not in_registers, self.chip)
        latency = self.chip.product_latency[1, in_registers] - self.chip.wake
        what = f"product {columns} {not in_registers}"
        queue.waiting.append(Product(key, group, cycles, latency, what))
        if queue.current is None:
            self._begin_product(warp.core, now)
        return now

    def _begin_product(self, core: Core, now: float) -> None:
        for warp in core.queue.begin():
            self._push(warp, now)
        if core.queue.current is not None:
            self._push(core, now + core.queue.current.cycles)

    def _end_product(self, core: Core, now: float) -> None:
        product = core.queue.current
        assert product is not None
        self.result.busy[core.cta, "tensor"] += product.cycles  # type: ignore[assignment]
        begin = now - product.cycles
        self._note(core.cta, WARPGROUP * product.warpgroup, product.what, begin, now)
        self._arrive(product.key, now + product.latency)
        self._begin_product(core, now)

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

    def _remote_copy(self, warp: Warp, event: Event, now: float) -> float:
        core = warp.core
        for key, size in self._arrivals(warp.stream, event):
            core.remote = max(now, core.remote) + size / self.chip.remote_copy_bytes
            done = core.remote + self.chip.remote_copy_latency
            self._note(warp.cta, warp.stream.warp, "remote copy", now, done)
            self._arrive(key, done)
        return now

    def _store(self, warp: Warp, event: Event, now: float) -> float:
        for _, group, size in event.started:
            done = now + self.chip.store_read_latency + size / self.chip.store_bytes
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


_Handler = Callable[[Events, Warp, Event, float], "float | None"]
_HANDLERS: tuple[tuple[str, _Handler], ...] = (
    ("mbarrier.try_wait", Events._try_wait),
    ("mbarrier.test_wait", Events._try_wait),
    ("mbarrier.arrive", Events._arrival),
    ("tcgen05.mma", Events._product),
    ("wgmma.mma_async", Events._warpgroup_product),
    ("wgmma.wait_group", Events._products_wait),
    ("tcgen05.commit", Events._commit),
    ("barrier.cluster.arrive", Events._arrival),
    ("barrier.cluster.wait", Events._cluster_wait),
    ("bar", Events._barrier),
    ("cp.async.bulk.wait_group", Events._store_wait),
    ("cp.async.bulk.commit_group", lambda self, warp, event, now: now),
    ("cp.async.bulk.shared::cluster.shared::cta", Events._remote_copy),
    ("cp.async.bulk", Events._copy),
    ("cp.reduce.async.bulk", Events._store),
)
