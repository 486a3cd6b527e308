"""The timing model: SASS read, small event lists replayed, tiles scheduled, all by hand."""

from __future__ import annotations

import pytest

from benchmarks.blackwell.timing.cells import Kernel, Line, cycles, fit, makespan
from benchmarks.blackwell.timing.listing import Block, Listing, Sass, parse
from benchmarks.blackwell.timing.replay import Replay
from benchmarks.blackwell.timing.streams import Event, Stream
from benchmarks.blackwell.timing.units import B200, cost_of, product_cycles

TEXT = """
	//## File ".nv_debug_ptx_txt", line 7
        /*0000*/                   MUFU.EX2 R1, R1 ;   /* 0x000000a300a37308 */
                                                       /* 0x000e620000000800 */
.L_x_1:
        /*0010*/              @!P0 BRA `(.L_x_1) ;     /* 0x0000013c00708947 */
                                                       /* 0x004fea0003800000 */
"""


def _sass(opcode: str, operands: str = "", stall: int = 1) -> Sass:
    return Sass(0, opcode, operands, "", 1, stall, 7, 7, 0)


def test_listing_has_scoreboards_and_lines() -> None:
    listing = parse(TEXT)
    first, second = listing.code
    assert (first.opcode, first.line, first.stall, first.sets) == ("MUFU.EX2", 7, 1, 1)
    assert (second.guard, second.stall, second.waits) == ("!P0", 5, 1 << 2)
    assert listing.blocks == (Block(0, 1), Block(1, 2))


@pytest.mark.parametrize(
    ("rows", "columns", "from_shared", "expected"),
    [(128, 128, True, 64), (128, 128, False, 64), (128, 64, True, 48), (128, 64, False, 32)],
)
def test_products_take_the_published_cycles(
    rows: int, columns: int, from_shared: bool, expected: int
) -> None:
    assert product_cycles(rows, columns, 16, from_shared, B200) == expected


def test_costs_go_by_the_opcode() -> None:
    assert cost_of(_sass("MUFU.EX2"), B200).cycles == 8
    assert cost_of(_sass("LDTM.x32"), B200).cycles == 32
    assert cost_of(_sass("STS.128"), B200).cycles == 4
    assert cost_of(_sass("FFMA2"), B200).cycles == 2
    assert cost_of(_sass("FFMA"), B200).cycles == 1


def test_two_warps_of_a_sub_partition_share_its_special_units() -> None:
    listing = Listing((_sass("MUFU.EX2"),), (Block(0, 1),))
    alone = Replay([Stream(0, 0, [0] * 10)], listing, B200).run()
    together = Replay([Stream(0, 0, [0] * 10), Stream(0, 4, [0] * 10)], listing, B200).run()
    apart = Replay([Stream(0, 0, [0] * 10), Stream(0, 1, [0] * 10)], listing, B200).run()
    assert alone.end[0] == apart.end[0] == 9 * 8 + 1
    assert together.end[0] == 19 * 8 + 1


def test_a_wait_ends_after_product_and_commit() -> None:
    """Warp 0 issues a product and commits it at cycles 0 and 1; warp 1 waits from 0 on."""
    code = (_sass("UTCHMMA", "gdesc[UR1], gdesc[UR2], tmem[UR3]"), _sass("UTCBAR"), _sass("SYNCS"))
    product = Event("tcgen05.mma.cta_group::1.kind::f16", (), ((0, 0, 128 * 128 * 16),))
    commit = Event("tcgen05.commit.cta_group::1", (), ((1024, 0, 1),))
    wait = Event("mbarrier.try_wait.parity.shared.b64", ((1024, 0, 0),), ())
    streams = [
        Stream(0, 0, [0, 1], {0: product, 1: commit}),
        Stream(0, 1, [2], {0: wait}),
    ]
    result = Replay(streams, Listing(code, (Block(0, 3),)), B200).run()
    assert result.warp_end[0, 1] == 64 + 136  # the published latency of this product
    assert result.busy[0, "tensor"] == 64


def test_a_phase_that_never_ends_is_told() -> None:
    listing = Listing((_sass("SYNCS"),), (Block(0, 1),))
    wait = Event("mbarrier.try_wait.parity.shared.b64", ((1024, 0, 0),), ())
    arrive = Event("mbarrier.arrive.shared.b64", ((1024, 0, 1),), ())
    stream = Stream(0, 0, [0, 0], {0: wait, 1: arrive})
    with pytest.raises(RuntimeError, match="1 warps wait for ever"):
        Replay([stream], listing, B200).run()


def test_lines_and_schedules() -> None:
    assert fit([(1, 30), (2, 40), (3, 50)]) == Line(20, 10)
    assert makespan([5, 4, 3, 3], 2) == 8
    kernel = Kernel(
        name="k",
        head_dim=128,
        causal=False,
        rows=256,
        multiprocessors=1,
        first=Line(100, 10),
        further=Line(50, 10),
    )
    # 4 tiles of 8 blocks for each of 148 heads: 4 of them to a multiprocessor.
    assert cycles(kernel, 1024, 148, B200) == 180 + 3 * 130
