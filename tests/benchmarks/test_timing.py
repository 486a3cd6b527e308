"""The timing model on hand-made event lists: neither the DSL nor nvdisasm is needed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.blackwell.timing import cells
from benchmarks.timing_model import lines
from benchmarks.timing_model.listing import NO_BARRIER, Block, Listing, Sass, parse
from benchmarks.timing_model.replay import Replay
from benchmarks.timing_model.streams import Event, Stream, streams
from benchmarks.timing_model.units import B200, cost_of, product_cycles
from jax_fa4.emulator.recording import COUNT, DONE, EVENT, JUMP, Instruction, Recording

BARRIER = 1024  # an address


def _sass(opcode: str, operands: str = "", **control: int) -> Sass:
    facts = {"at": 0, "line": 0, "stall": 1, "sets": NO_BARRIER, "reads": NO_BARRIER, "waits": 0}
    return Sass(opcode=opcode, operands=operands, guard="", **{**facts, **control})


def _listing(*code: Sass) -> Listing:
    return Listing(code, (Block(0, len(code)),))


def _run(listing: Listing, *warps: Stream, cluster: int = 1):
    return Replay(list(warps), listing, B200, cluster).run()


def _wait(phase: int = 0) -> Event:
    return Event("mbarrier.try_wait.parity.shared.b64", ((BARRIER, phase, 0),), ())


def _arrive() -> Event:
    return Event("mbarrier.arrive.shared.b64", ((BARRIER, 0, 1),), ())


def _product(columns: int, group: int = 1) -> Event:
    flops = 128 * group * columns * 16
    return Event(f"tcgen05.mma.cta_group::{group}.kind::f16", (), ((0, 0, flops),))


def _commit(group: int = 1) -> Event:
    return Event(f"tcgen05.commit.cta_group::{group}", (), ((BARRIER, 0, 1),))


def test_a_wait_ends_a_wake_after_the_last_arrival():
    listing = _listing(_sass("MUFU.EX2"), _sass("SYNCS"), _sass("SYNCS.TRYWAIT"))
    one = Stream(0, 0, [0, 1], {1: _arrive()})
    late = Stream(0, 1, [0] * 10 + [1], {10: _arrive()})
    waiting = Stream(0, 2, [2], {0: _wait()})
    done = _run(listing, one, late, waiting)
    arrived = 9 * B200.special + 1  # after ten exponentials, one issued every 8 cycles
    assert done.warp_end[0, 2] == arrived + B200.wake
    assert done.warp_end[0, 0] < done.warp_end[0, 1] <= done.warp_end[0, 2]


def test_a_phase_that_nobody_ends_is_a_deadlock():
    listing = _listing(_sass("SYNCS"), _sass("SYNCS.TRYWAIT"))
    first = Stream(0, 0, [0], {0: _arrive()})
    second = Stream(0, 1, [1], {0: _wait()})
    third = Stream(0, 2, [1, 0], {0: _wait(), 1: _arrive()})  # waits for itself
    with pytest.raises(RuntimeError, match="2 warps wait for ever"):
        _run(listing, first, second, third)


def test_warps_of_a_sub_partition_share_its_units():
    listing = _listing(_sass("MUFU.EX2"))
    code = [0] * 100
    apart = _run(listing, Stream(0, 0, code), Stream(0, 1, code))
    together = _run(listing, Stream(0, 0, code), Stream(0, 4, code))
    assert max(apart.end.values()) == pytest.approx(100 * B200.special, abs=10)
    assert max(together.end.values()) == pytest.approx(200 * B200.special, abs=10)


def test_an_instruction_waits_for_the_scoreboards_that_ptxas_names():
    load = _sass("LDTM.x32", sets=2)
    listing = _listing(load, _sass("FADD"), _sass("FADD", waits=1 << 2))
    cost = cost_of(load, B200)
    assert _run(listing, Stream(0, 0, [0, 1])).end[0] == 2
    assert _run(listing, Stream(0, 0, [0, 2])).end[0] == cost.latency + 1


@pytest.mark.parametrize(("operands", "latency"), [("gdesc[UR4]", 136), ("tmem[UR4]", 104)])
def test_a_commit_is_seen_after_all_products(operands, latency):
    """As measured: 128x128x16 takes 64 cycles on the pipe, 136 or 104 more to be seen."""
    listing = _listing(_sass("UTCHMMA", operands), _sass("UTCBAR"), _sass("SYNCS.TRYWAIT"))
    events = {0: _product(128), 1: _product(128), 2: _commit(), 3: _wait()}
    done = _run(listing, Stream(0, 0, [0, 0, 1, 2], events))
    assert done.busy[0, "tensor"] == 128
    assert done.end[0] == 128 + latency


def test_two_ctas_multiply_together():
    """Both tensor cores are taken, and a commit reaches both CTAs' barriers."""
    listing = _listing(_sass("UTCHMMA.2CTA", "gdesc[UR4]"), _sass("UTCBAR"), _sass("SYNCS.TRYWAIT"))
    leader = Stream(0, 0, [0, 1], {0: _product(128, 2), 1: _commit(2)})
    other = Stream(1, 0, [2], {0: _wait()})
    done = _run(listing, leader, other, cluster=2)
    assert done.busy[0, "tensor"] == done.busy[1, "tensor"] == 64
    assert done.end[1] == 64 + B200.product_latency[2, False]


def test_loads_share_the_way_from_l2():
    listing = _listing(_sass("UTMALDG"), _sass("SYNCS.TRYWAIT"))
    size = 64 * 1024
    copy = Event("cp.async.bulk.tensor.4d.mbarrier::complete_tx", (), ((BARRIER, 0, size),))
    done = _run(listing, Stream(0, 0, [0, 0, 1], {0: copy, 1: copy, 2: _wait()}))
    taken = 2 * size / B200.load_bytes + B200.load_latency + B200.wake
    assert done.end[0] == pytest.approx(taken)


def test_named_barriers_hold_until_all_are_there():
    listing = _listing(_sass("BAR.SYNC"), _sass("BAR.ARV"), _sass("MUFU.EX2"))
    sync = Event("bar.sync", ((3, 0, 1),), ())
    arrive = Event("bar.arrive", ((3, 0, 1),), ())
    done = _run(listing, Stream(0, 0, [0], {0: sync}), Stream(0, 1, [2] * 50 + [1], {50: arrive}))
    assert done.warp_end[0, 0] == 49 * B200.special + 1 + B200.wake


@pytest.mark.parametrize(
    ("columns", "from_shared", "cycles"), [(128, True, 64), (128, False, 64), (64, True, 48)]
)
def test_products_meet_arithmetic_or_shared_memory(columns, from_shared, cycles):
    assert product_cycles(128, columns, 16, from_shared, B200) == cycles


NVDISASM = """\
.text.kernel:
        //## File ".nv_debug_ptx_txt.1", line 7
        /*0000*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R2], R3 ;  /* 0x0000000000000001 */
                                                                                  /* 0x{first:016x} */
        /*0010*/              @!P0 BRA `(.L_x_1) ;  /* 0x0000000000000002 */
                                                                                  /* 0x{second:016x} */
.L_x_0:
        /*0020*/                   EXIT ;  /* 0x0000000000000003 */
                                                                                  /* 0x{second:016x} */
.L_x_1:
        //## File ".nv_debug_ptx_txt.1", line 9
        /*0030*/                   BRA `(.L_x_0) ;  /* 0x0000000000000004 */
                                                                                  /* 0x{second:016x} */
"""  # noqa: E501


def test_control_words_and_blocks_are_read():
    first = (5 | 2 << 5 | 7 << 8 | 0b10_0001 << 11) << 41
    listing = parse(NVDISASM.format(first=first, second=(1 | 7 << 5 | 7 << 8) << 41))
    wait = listing.code[0]
    assert (wait.stall, wait.sets, wait.reads, wait.waits) == (5, 2, NO_BARRIER, 0b10_0001)
    assert wait.line == 9, "a try is of the line of the loop behind its failure"
    assert [(block.first, block.last) for block in listing.blocks] == [(0, 2), (2, 3), (3, 4)]


PTX = "mov;\n$loop:\nadd;\nmbarrier.arrive;\n@p bra $loop;\nret;\n"


def test_a_path_through_ptx_is_followed_in_sass():
    """Three passes through a loop, the last ending without the branch."""
    opcodes = [("mov", 1), ("add", 3), ("mbarrier.arrive", 4), ("bra", 5), ("ret", 6)]
    jumps = np.zeros(3, JUMP)
    jumps["own"], jumps["pc"], jumps["lanes"] = (0, 4, 7), (0, 1, 1), (2**32 - 1,) * 3
    events = np.zeros(3, EVENT)
    events["kind"], events["pc"], events["own"] = DONE, 2, (2, 5, 8)
    events["object"], events["phase"], events["amount"] = BARRIER, (0, 1, 2), 1
    recording = Recording(
        name="loop",
        grid=(1, 1, 1),
        block=(32, 1, 1),
        cluster=(1, 1, 1),
        instructions=tuple(Instruction(opcode, line, "", 0) for opcode, line in opcodes),
        events=events,
        jumps=jumps,
        counts=np.zeros((1, len(opcodes)), COUNT),
        dropped=0,
        steps=0,
        finding="",
    )
    code = (
        _sass("MOV", line=1),
        _sass("IADD3", line=3),
        _sass("SYNCS", line=4),
        _sass("BRA", line=5),
        _sass("EXIT", line=6),
    )
    listing = Listing(code, (Block(0, 1), Block(1, 4), Block(4, 5)))
    (found,) = streams(recording, PTX, listing)
    assert found.code == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4]
    assert sorted(found.events) == [2, 5, 8]
    assert [found.events[place].about[0][1] for place in (2, 5, 8)] == [0, 1, 2]
    assert found.unmatched == 0


def test_a_line_through_points():
    line = lines.fit([(8, 1000), (16, 1800), (8, 1000)])
    assert (line.start, line.slope) == pytest.approx((200, 100))


def _kernel(*, causal: bool, further: bool = True) -> cells.Kernel:
    return cells.Kernel(
        name="kernel",
        head_dim=128,
        causal=causal,
        rows=256,
        multiprocessors=1,
        first=lines.Line(1000, 2048),
        further=lines.Line(0, 2048) if further else None,
    )


def test_tiles_of_a_causal_mask_are_longest_first():
    assert cells.blocks_of_tiles(_kernel(causal=True), 1024) == [8, 6, 4, 2]
    assert cells.blocks_of_tiles(_kernel(causal=False), 1024) == [8] * 4


def test_whole_rounds_where_tiles_are_alike():
    # 16 heads, one batch: 16 * 128 tiles on 148 multiprocessors are 14 rounds.
    assert cells.cycles(_kernel(causal=False), 32768, 16, B200) == 1000 + 14 * 256 * 2048


def test_free_workers_take_the_next_tile():
    assert lines.makespan([5, 4, 3, 3], 2) == 8


def test_perfect_products_are_near_the_peak():
    """A kernel that needs its products' cycles alone loses whole rounds and the starts only."""
    found = cells.tflops(_kernel(causal=False), 32768, B200)
    peak = B200.flops * B200.multiprocessors * B200.hertz / 1e12
    assert 0.95 * peak < found < peak


def test_a_cluster_waits_for_its_last_arrival():
    listing = _listing(_sass("UCGABAR_ARV"), _sass("UCGABAR_WAIT"), _sass("MUFU.EX2"))
    arrive = Event("barrier.cluster.arrive", ((0, 1, 0),), ())
    wait = Event("barrier.cluster.wait", ((0, 2, 0),), ())
    early = Stream(0, 0, [0, 1], {0: arrive, 1: wait})
    late = Stream(1, 0, [2] * 50 + [0, 1], {50: arrive, 51: wait})
    done = _run(listing, early, late, cluster=2)
    assert done.end[0] == done.end[1] == 49 * B200.special + 1 + B200.wake


def test_costs_go_by_the_opcode():
    assert cost_of(_sass("LDTM.x32"), B200).cycles == 32
    assert cost_of(_sass("STS.128"), B200).cycles == 4
    assert cost_of(_sass("FFMA2"), B200).cycles == 2
    assert cost_of(_sass("FFMA"), B200).cycles == 1
