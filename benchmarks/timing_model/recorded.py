"""A folder of recordings of one kernel, replayed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.timing_model.events import Key
from benchmarks.timing_model.listing import Listing, name_products, read_cubin
from benchmarks.timing_model.replay import Replay
from benchmarks.timing_model.spans import Result
from benchmarks.timing_model.streams import Stream, streams
from benchmarks.timing_model.units import Chip
from jax_fa4.emulator.recording import Recording


@dataclass
class Folder:
    """What `record` left."""

    folder: Path
    nvdisasm: str
    _streams: dict[str, tuple[list[Stream], int]] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def ptx(self) -> str:
        return (self.folder / "kernel.ptx").read_text()

    @cached_property
    def listing(self) -> Listing:
        return name_products(read_cubin(self.folder / "kernel.cubin", self.nvdisasm), self.ptx)

    def recording(self, run: str) -> Recording:
        found: Recording = pickle.loads((self.folder / f"{run}.pickle").read_bytes())
        if found.finding or found.dropped:
            raise RuntimeError(
                f"{self.folder.name}, {run}: {found.finding or 'events are missing'}"
            )
        return found

    def streams(self, run: str) -> list[Stream]:
        return streams(self.recording(run), self.ptx, self.listing)

    def replay(self, run: str, chip: Chip, fresh: Callable[[Key], float] | None = None) -> Result:
        if run not in self._streams:
            x, y, z = self.recording(run).cluster
            self._streams[run] = self.streams(run), x * y * z
        found, cluster = self._streams[run]
        return Replay(found, self.listing, chip, cluster, fresh).run()
