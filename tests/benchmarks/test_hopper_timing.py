"""The timing model of Hopper: products of warpgroups, device memory, tiles; no DSL, no GPU."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cells import Cell, grid
from benchmarks.hopper.timing import launch, page
from benchmarks.hopper.units.__main__ import parts
from benchmarks.timing_model.listing import NO_BARRIER, Block, Listing, Sass, name_products
from benchmarks.timing_model.replay import Replay
from benchmarks.timing_model.streams import Event, Stream
from benchmarks.timing_model.tensor import DEPTH
from benchmarks.timing_model.units import H100, product_cycles

RESULTS = Path(page.__file__).resolve().parents[2] / "results"
COLUMNS = 128
CYCLES = 64  # of m64n128k16 at 4096 FLOP a cycle
BARRIER = 1024


def _sass(opcode: str, operands: str = "", line: int = 0) -> Sass:
    return Sass(0, opcode, operands, "", line, 1, NO_BARRIER, NO_BARRIER, 0)


def _listing(*code: Sass) -> Listing:
    return Listing(code, (Block(0, len(code)),))


PRODUCTS = _listing(
    _sass("HGMMA.64x128x16.F32.BF16", "R24, gdesc[UR16], R24"),
    _sass("WARPGROUP.DEPBAR.LE", "gsb0, 0x0"),
    _sass("MUFU.EX2"),
    _sass("HGMMA.64x128x16.F32.BF16", "R24, R152, gdesc[UR16].tnspB, R24"),
    _sass("FMNMX"),
)
PRODUCT, WAIT, EX2, FROM_REGISTERS, MAXIMUM = range(5)


def _product(group: int) -> Event:
    share = 16 * COLUMNS * 16  # multiplications of a warp's 16 rows
    return Event("wgmma.mma_async.sync.aligned.m64n128k16", (), ((0, group, share),))


def _wait(group: int) -> Event:
    return Event("wgmma.wait_group.sync.aligned", ((0, group, 0),), ())


def _warp(warp: int, code: list[int], groups: list[int], waited: int) -> Stream:
    """A product of each of `groups` in turn, then a wait for group `waited`."""
    stream, left = Stream(0, warp, code), iter(groups)
    for place, index in enumerate(code):
        if index in (PRODUCT, FROM_REGISTERS):
            stream.events[place] = _product(next(left))
        elif index == WAIT:
            stream.events[place] = _wait(waited)
    return stream


def _run(*warps: Stream):
    return Replay(list(warps), PRODUCTS, H100).run()


def test_a_product_begins_when_its_last_warp_has_issued_it():
    late = [EX2] * 11 + [PRODUCT, WAIT]  # issued at 8 cycles for each of ten exponentials, and 1
    warps = [_warp(warp, [PRODUCT, WAIT], [1], 1) for warp in range(3)]
    done = _run(*warps, _warp(3, late, [1], 1))
    assert done.busy[0, "tensor"] == CYCLES
    assert done.end[0] == 10 * H100.special + 1 + CYCLES + H100.product_latency[1, False]


def test_a_wait_leaves_later_groups_under_way():
    both = [PRODUCT, PRODUCT, WAIT]
    first = _run(*(_warp(warp, both, [1, 2], 1) for warp in range(4)))
    second = _run(*(_warp(warp, both, [1, 2], 2) for warp in range(4)))
    assert second.end[0] - first.end[0] == pytest.approx(CYCLES, abs=1)
    assert first.busy[0, "tensor"] == second.busy[0, "tensor"] == 2 * CYCLES


def test_warpgroups_share_the_tensor_cores():
    alone = _run(*(_warp(warp, [PRODUCT, WAIT], [1], 1) for warp in range(4)))
    both = _run(*(_warp(warp, [PRODUCT, WAIT], [1], 1) for warp in range(8)))
    assert both.end[0] - alone.end[0] == pytest.approx(CYCLES, abs=4)


def test_products_run_in_the_order_in_which_they_were_issued():
    both = [PRODUCT, PRODUCT, WAIT]
    first = [_warp(warp, both, [1, 2], 2) for warp in range(4)]
    # Issued later, by one exponential.
    second = [_warp(warp, [EX2, EX2, PRODUCT, WAIT], [1], 1) for warp in range(4, 8)]
    done = _run(*first, *second)
    order = [s.warp for s in sorted(done.spans, key=lambda s: s.begin) if "product" in s.what]
    assert order == [0, 0, 4]


def test_a_warp_waits_before_what_follows_if_six_products_wait():
    def end(count: int) -> float:
        groups = list(range(1, count + 1))
        return _run(*(_warp(warp, [PRODUCT] * count, groups, count) for warp in range(4))).warp_end[
            0, 0
        ]

    assert end(DEPTH + 1) < CYCLES  # one runs and six wait
    assert end(DEPTH + 3) == pytest.approx(2 * CYCLES, abs=8)


def test_minima_take_longer_beside_products():
    code = [MAXIMUM] * 200
    alone = _run(_warp(4, code, [], 0)).warp_end[0, 4]
    groups = list(range(1, 17))
    multiply = [_warp(warp, [PRODUCT] * 16, groups, 16) for warp in range(4)]
    beside = _run(*multiply, _warp(4, code, [], 0)).warp_end[0, 4]
    assert alone == pytest.approx(200 * H100.half_rate, abs=4)
    assert beside == pytest.approx(200 * H100.half_rate_beside, abs=8)


def test_a_warpgroup_that_lacks_a_warp_never_multiplies():
    with pytest.raises(RuntimeError, match="wait for ever"):
        _run(
            *(_warp(warp, [PRODUCT, WAIT], [1], 1) for warp in range(3)),
            _warp(3, [WAIT, PRODUCT], [1], 1),
        )


def test_an_operand_in_registers_spares_shared_memory():
    wide = product_cycles(64, 16, 16, False, H100), product_cycles(64, 16, 16, True, H100)
    assert wide == (8, 20)
    assert product_cycles(64, COLUMNS, 16, True, H100) == CYCLES


def test_products_get_their_lines_in_order():
    ptx = "\n".join(
        [
            "add.s32 %r1, %r1, 1;",
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, p, 1, 1;",
            "wgmma.commit_group.sync.aligned;",
            "  wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%r1}, {%r2}, %rd2, p, 1, 1;",
        ]
    )
    first, second = _sass("HGMMA.64x128x16.F32.BF16"), _sass("HGMMA.64x64x16.F32.BF16")
    named = name_products(_listing(first, _sass("FADD", line=7), second), ptx)
    assert [sass.line for sass in named.code] == [2, 7, 4]
    with pytest.raises(ValueError, match="another order"):
        name_products(_listing(second, first), ptx)
    with pytest.raises(ValueError, match="longer"):
        name_products(_listing(first), ptx)


def test_what_l2_lacks_comes_at_a_share_of_device_memory():
    listing = _listing(_sass("UTMALDG"), _sass("SYNCS.TRYWAIT"))
    size = 64 * 1024
    copy = Event("cp.async.bulk.tensor.4d.mbarrier::complete_tx", (), ((BARRIER, 0, size),))
    wait = Event("mbarrier.try_wait.parity.shared.b64", ((BARRIER, 0, 0),), ())
    stream = Stream(0, 0, [0, 1], {0: copy, 1: wait})
    chip = replace(H100, memory=8.0 * H100.multiprocessors * H100.hertz)  # 8 bytes a cycle
    near = Replay([stream], listing, chip).run().end[0]
    assert near == pytest.approx(size / chip.load_bytes + chip.load_latency + chip.wake)
    far = Replay([stream], listing, chip, fresh=lambda key: 0.5).run().end[0]
    assert far == pytest.approx(size / 2 / 8 + chip.memory_latency + chip.wake)


def _cell(seqlen: int, mask: str = "full", head_dim: int = 128) -> Cell:
    return Cell(head_dim=head_dim, seqlen=seqlen, mask=mask, pass_="fwd")


def test_tiles_that_are_alike_come_head_after_head():
    found = launch.units(_cell(512), 132)
    assert len(found) == 4 * 16 * 32
    assert all(len(unit) == 1 and unit[0].blocks == 4 for unit in found)
    # 33 heads' tiles run at once, and load their keys and values together.
    assert [unit[0].sharers for unit in found[:264]] == [4] * 264
    # 11 tiles of 192 rows a head: the thirteenth head's last one finds its keys in L2.
    sharers = [unit[0].sharers for unit in launch.units(_cell(2048, head_dim=64), 140)]
    assert sharers[12 * 11 : 13 * 11] == [8] * 8 + [0] * 3


def test_a_causal_problem_comes_in_pairs_of_equal_length():
    found = launch.units(_cell(2048, "causal"), 132)
    assert len(found) == 8 * 16 * 8
    assert {sum(tile.blocks for tile in unit) for unit in found} == {17}
    assert [tile.blocks for tile in found[0]] == [16, 1]
    # Three tiles a head: the middle ones of two heads are a pair.
    odd = launch.units(_cell(512, "causal", 64), 132)
    assert [[tile.blocks for tile in unit] for unit in odd[:3]] == [[4, 2], [4, 2], [3, 3]]


def test_where_ctas_walk_the_longest_walk_counts():
    taken = launch.cycles(_cell(512), 132, lambda t: 1000 + t.blocks, lambda t: 10 * t.blocks, 500)
    assert taken == 1004 + 15 * 40  # 2048 tiles on 132 multiprocessors: 16 of some
    pairs = launch.cycles(_cell(512, "causal"), 132, lambda t: t.blocks, lambda t: t.blocks, 500)
    assert pairs == 8 * 5  # 1024 pairs


def test_where_each_tile_has_its_cta_free_multiprocessors_take_the_next():
    cell = _cell(16384, "causal")
    taken = launch.cycles(cell, 132, lambda t: float(t.blocks), lambda t: 0.0, 0.0)
    work = 16 * sum(range(1, 129))
    assert work / 132 <= taken <= work / 132 + 128


@pytest.mark.parametrize(
    ("head_dim", "mask", "seqlen", "walks"),
    [
        (64, "full", 16384, True),
        (64, "causal", 8192, True),
        (128, "causal", 8192, True),
        (128, "causal", 16384, False),
        (256, "causal", 8192, True),
        (256, "causal", 16384, False),
    ],
)
def test_which_cells_have_walks(head_dim, mask, seqlen, walks):
    assert launch.persistent(_cell(seqlen, mask, head_dim)) is walks


def test_every_cell_was_measured_at_a_clock():
    measured = page.read(RESULTS / "hopper-cycles.json")
    for cell in grid(passes=("fwd",)):
        real = measured[cell.name]
        assert 1300 < real.megahertz < 1980
        seconds = real.cycles / real.megahertz / 1e6
        assert cell.flops / seconds / 1e12 == pytest.approx(real.tflops, rel=1e-3)


def test_what_was_measured_of_units_is_what_the_model_has():
    found = json.loads((RESULTS / "hopper-units.json").read_text())["results"]
    busy = [found[f"turns n128 {kind}, 16"] for kind in ("RS", "SS")]
    assert busy == pytest.approx([CYCLES, CYCLES], rel=0.01)
    beside = {name: found[f"beside n128 SS, {name}"]["1"][3] for name in ("FMNMX", "F2FP", "MUFU")}
    assert beside["FMNMX"] == pytest.approx(H100.half_rate_beside, rel=0.05)
    assert beside["F2FP"] == pytest.approx(H100.half_rate_beside, rel=0.05)
    assert beside["MUFU"] == pytest.approx(H100.special_beside, rel=0.05)
    assert found["rate MUFU"]["1"] == pytest.approx(H100.special, rel=0.02)
    assert found["rate FMNMX"]["1"] == pytest.approx(H100.half_rate, rel=0.05)


def test_measuring_kernels_name_only_registers_that_they_declare():
    for part in parts():
        for ptx in part.ptx:
            assert ptx.count("{") == ptx.count("}")
            numbers = [int(n) for n in re.findall(r"%f(\d+)", ptx)]
            assert max(numbers, default=0) < 512
