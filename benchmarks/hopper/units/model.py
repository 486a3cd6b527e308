"""The measuring kernels in the model of time, beside what an H100 measured of them.

    pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm
    python -m benchmarks.hopper.units.model --ptxas PTXAS --nvdisasm NVDISASM

Those that do operations beside products of 64 x 128 x 16, A in shared memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks.hopper.units import programs
from benchmarks.hopper.units.__main__ import assemble, parts
from benchmarks.hopper.units.ptx import MIXES
from benchmarks.timing_model.listing import Block, Listing, read_cubin
from benchmarks.timing_model.replay import Replay
from benchmarks.timing_model.streams import Event, Stream
from benchmarks.timing_model.units import H100

_RESULTS = Path(__file__).resolve().parents[2] / "results" / "hopper-units.json"
_NAMES = ("MUFU", *(" + ".join(mix) for mix in MIXES), programs.SOFTMAX)
_COLUMNS, _WARPS = 128, 4
_OPERATIONS = 256  # a round, but of a softmax


def loops(listing: Listing) -> list[Block]:
    """The bodies that end with a branch back; shorter ones wait for something."""
    found = []
    for block in listing.blocks:
        last = listing.code[block.last - 1]
        if last.name == "BRA" and last.guard and block.last - block.first > 8:
            found.append(block)
    return found


def rounds(listing: Listing, body: Block, warp: int, count: int) -> Stream:
    """A warp's way `count` times through a loop; a round's products are a group to wait for."""
    stream = Stream(0, warp)
    for group in range(1, count + 1):
        for index in range(body.first, body.last):
            sass = listing.code[index]
            place = len(stream.code)
            if sass.name == "HGMMA":
                started = ((0, group, 16 * _COLUMNS * 16),)
                stream.events[place] = Event("wgmma.mma_async", (), started)
            elif sass.opcode.startswith("WARPGROUP.DEPBAR"):
                stream.events[place] = Event("wgmma.wait_group", ((0, group, 0),), ())
            stream.code.append(index)
    return stream


def operation_cycles(listing: Listing, others: int, multiplied: int) -> float:
    """Cycles of a round of operations, of `others` warpgroups, beside so many groups."""
    bodies = loops(listing)
    multiplies = [
        any(sass.name == "HGMMA" for sass in listing.code[body.first : body.last])
        for body in bodies
    ]
    multiply, compute = bodies[multiplies.index(True)], bodies[-1]  # in this order in the text
    streams = [rounds(listing, multiply, warp, multiplied) for warp in range(_WARPS)]
    computing = range(_WARPS, _WARPS * (1 + others))
    streams += [rounds(listing, compute, warp, 10) for warp in computing]
    streams = [each for each in streams if each.code]
    return Replay(streams, listing, H100).run().warp_end[0, _WARPS] / 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hopper.units.model")
    parser.add_argument("--ptxas", default=shutil.which("ptxas"))
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--measured", type=Path, default=_RESULTS)
    options = parser.parse_args()
    measured = json.loads(options.measured.read_text())["results"]
    wanted = {f"beside n{_COLUMNS} SS, {name}": name for name in _NAMES}
    found = {part.name: part.ptx[0] for part in parts() if part.name in wanted}
    cubins = assemble(options.ptxas, list(found.values()))
    print("cycles an operation (a softmax) of a warp      alone: measured, model  beside products")
    for part, ptx in found.items():
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder, "kernel.cubin")
            cubin.write_bytes(cubins[ptx])
            listing = read_cubin(cubin, options.nvdisasm)
        done = 1 if wanted[part] == programs.SOFTMAX else _OPERATIONS
        for others in (1, 2):
            _, _, alone, beside = measured[part][str(others)]
            model = [operation_cycles(listing, others, count) / done for count in (0, 200)]
            row = f"{alone:8.2f} {model[0]:8.2f} {beside:12.2f} {model[1]:8.2f}"
            print(f"{wanted[part]:>48}, {others} a sub-partition {row}")


if __name__ == "__main__":
    main()
