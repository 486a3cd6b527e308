"""Launches as a kernel's own compiled host code makes them, on a stand-in for a device.

Nothing here knows tile sizes, tensor maps or the order of a kernel's parameters: what the host
code passes to the device is what a launch has.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import SOURCES, build

RUNTIME = tuple(
    SOURCES / "runtime" / f"{name}.cc"
    for name in ("backend", "captured_launch", "emulated_device", "kernel_calls")
)


class Capture(ctypes.Structure):
    _fields_ = (
        ("ptx", ctypes.c_char_p),
        ("ptx_bytes", ctypes.c_uint64),
        ("init", ctypes.c_void_p),
        ("load_to_device", ctypes.c_void_p),
        ("launch", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("argument_count", ctypes.c_uint64),
        ("sm_count", ctypes.c_uint64),
        ("compute_capability_major", ctypes.c_uint64),
        ("geometry", ctypes.c_uint32 * 10),
        ("parameters", ctypes.c_uint8 * 4096),
        ("parameter_bytes", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class HostCode:
    """A compiled variant: its object file, linked to a stand-in for a device, and its facts."""

    library: ctypes.CDLL
    ptx: str
    facts: dict[str, Any]
    variant: Any

    @staticmethod
    def of(path: Path, cache: Path) -> HostCode:
        """The variant of `<name>.ptx`; `.o` and `.json` are beside it, as `jax_fa4.aot` leaves."""
        from jax_fa4.variants import parse

        beside = (*RUNTIME, path.with_suffix(".o"))
        library = build(cache, "capture.cc", "-shared", beside=beside)
        facts = json.loads(path.with_suffix(".json").read_text())
        return HostCode(ctypes.CDLL(str(library)), path.read_text(), facts, parse(path.stem))

    def _entry(self, name: str) -> int | None:
        return ctypes.cast(getattr(self.library, self.facts[name]), ctypes.c_void_p).value

    def launch(
        self, values: dict[str, Any], written: tuple[str, ...] = ("out", "lse")
    ) -> dict[str, Any]:
        """The launch for these values of all arguments by name; arrays stay where they are.

        Like a launch that was captured elsewhere (mutate.py says how): of the arrays, those of
        the names in `written` are written.
        """
        from jax_fa4.aot.arguments import Kind
        from jax_fa4.aot.signatures import signature

        arrays, numbers = [], []
        for argument in signature(self.variant):
            value = values.get(argument.name)
            match argument.kind:
                case Kind.ELEMENTS | Kind.OUTPUTS | Kind.FLOATS | Kind.INTS:
                    arrays.append((argument.name, value))
                    numbers.append(ctypes.c_void_p(value.ctypes.data))
                case Kind.I32:
                    numbers.append(ctypes.c_int32(value))
                case Kind.F32:
                    numbers.append(ctypes.c_float(value))
                case Kind.STREAM:
                    numbers.append(ctypes.c_void_p(None))
                case other:
                    raise ValueError(f"argument {argument.name} is of the unknown kind {other}")
        places = (ctypes.c_void_p * (len(numbers) + 1))(*map(ctypes.addressof, numbers))
        captured = self._captured(places, len(numbers), values["sm_count"])
        return {
            "geometry": np.array(captured.geometry),
            "parameters": np.array(captured.parameters[: captured.parameter_bytes], np.uint8),
            "addresses": np.array([x.ctypes.data for _, x in arrays], np.uint64),
            "writable": np.array([name in written for name, _ in arrays]),
            **{f"memory{i}": x.reshape(-1).view(np.uint8) for i, (_, x) in enumerate(arrays)},
        }

    def _captured(self, places: ctypes.Array, count: int, sm_count: int) -> Capture:
        text = self.ptx.encode()
        capture = Capture(
            ptx=text,
            ptx_bytes=len(text),
            init=self._entry("init"),
            load_to_device=self._entry("load_to_device"),
            launch=self._entry("launch"),
            arguments=places,
            argument_count=count,
            sm_count=sm_count,
            compute_capability_major=self.variant.arch.compute_capability_major,
        )
        error = ctypes.create_string_buffer(1 << 12)
        self.library.capture_launch(ctypes.byref(capture), error, ctypes.c_uint64(len(error)))
        if error.value:
            raise RuntimeError(f"{self.variant.name}: {error.value.decode()}")
        return capture
