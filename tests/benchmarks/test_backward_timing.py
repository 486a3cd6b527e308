"""The Blackwell backward in the timing model: cells of made-up lines, and bulk additions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.blackwell.backward.kernels import Backward, around
from benchmarks.blackwell.timing.cells import HIDDEN, TOKENS
from benchmarks.timing_model.lines import Line
from benchmarks.timing_model.listing import NO_BARRIER, Block, Listing, Sass
from benchmarks.timing_model.replay import Replay
from benchmarks.timing_model.streams import Event, Stream
from benchmarks.timing_model.units import B200

# No launches, and memory that takes no time.
CHIP = replace(B200, launch=0, kernel_launch_seconds=0.0, memory=1e30)


def _backward(ctas: int = 1, slope: float = 1000.0) -> Backward:
    found = Backward(Path("none"), "nvdisasm", 128, {"compute": 0}, ctas)
    found._lines = {causal: (Line(0.0, slope), 0.0) for causal in (False, True)}
    return found


def _visits(length: int) -> float:
    """Of 128 x 128, full mask."""
    return TOKENS // length * (HIDDEN // 128) * (length / 128) ** 2


def test_the_full_mask_visits_all_pairs_of_blocks():
    cycles = _backward().seconds(False, 32768, CHIP) * CHIP.hertz
    rounds = -(-16 * 256 // 148)  # of CTAs, each with 256 visits
    assert cycles == pytest.approx(rounds * 256 * 1000)
    assert rounds * 256 * 148 == pytest.approx(_visits(32768), rel=0.02)


def test_a_causal_mask_visits_half_of_them_and_the_diagonal():
    length = 32768
    cycles = _backward().seconds(True, length, CHIP) * CHIP.hertz
    half = _visits(length) * (0.5 + 0.5 * 128 / length)
    assert cycles == pytest.approx(half * 1000 / 148, rel=0.02)


def test_a_pair_takes_two_multiprocessors_for_twice_the_keys():
    one, two = (_backward(ctas).seconds(False, 8192, CHIP) for ctas in (1, 2))
    assert two == pytest.approx(one, rel=0.02)


def test_five_products_count():
    backward = _backward()
    flops = 5 * 2.0 * TOKENS * 4096 * HIDDEN
    expected = flops / backward.seconds(False, 4096, CHIP) / 1e12
    assert backward.tflops(False, 4096, CHIP) == pytest.approx(expected)


def test_preprocess_and_postprocess_take_the_time_of_their_bytes():
    assert around(B200) == pytest.approx(TOKENS * HIDDEN * 14 / 8e12)


def _sass(opcode: str) -> Sass:
    return Sass(0, opcode, "", "", 0, 1, NO_BARRIER, NO_BARRIER, 0)


def test_a_wait_for_bulk_additions_lasts_until_shared_memory_was_read():
    listing = Listing((_sass("UBLKRED"), _sass("DEPBAR")), (Block(0, 2),))
    size = 16384
    add = Event("cp.reduce.async.bulk.global.shared::cta", (), ((0, 1, size),))
    wait = Event("cp.async.bulk.wait_group.read", ((0, 1, 0),), ())
    done = Replay([Stream(0, 0, [0, 1], {0: add, 1: wait})], listing, B200).run().end[0]
    read = B200.store_read_latency + size / B200.store_bytes
    assert done == pytest.approx(read, abs=2)


def test_a_copy_to_the_other_cta_comes_from_shared_memory():
    listing = Listing((_sass("UBLKCP"), _sass("SYNCS.TRYWAIT")), (Block(0, 2),))
    opcode = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
    copy, wait = (
        Event(opcode, (), ((64, 0, 8192),)),
        Event("mbarrier.try_wait.parity.shared.b64", ((64, 0, 0),), ()),
    )
    done = Replay([Stream(0, 0, [0, 1], {0: copy, 1: wait})], listing, B200).run().end[0]
    expected = 8192 / B200.remote_copy_bytes + B200.remote_copy_latency + B200.wake
    assert done == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(("amount", "cycles"), [(128 * 128, 32), (256 * 128, 64)])
def test_a_pair_of_half_as_many_rows_takes_half_as_long(amount, cycles):
    listing = Listing(
        (replace(_sass("UTCHMMA"), operands="gdesc[UR4], gdesc[UR6]"),), (Block(0, 1),)
    )
    product = Event("tcgen05.mma.cta_group::2.kind::f16", (), ((0, 0, amount * 16),))
    streams = [Stream(0, 0, [0], {0: product}), Stream(1, 0, [], {})]
    result = Replay(streams, listing, B200, cluster=2).run()
    assert result.busy[0, "tensor"] == result.busy[1, "tensor"] == cycles
