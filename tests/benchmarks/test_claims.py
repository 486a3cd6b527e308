"""Tiles that CTAs claim, handed out to a whole chip."""

from benchmarks.blackwell.claims import Tiles, makespan
from benchmarks.timing_model.lines import Line
from benchmarks.timing_model.units import B200

OWN = Tiles(Line(800.0, 100.0), None, None)
CLAIMING = Tiles(Line(800.0, 100.0), 300.0, None)
CHIP = B200.multiprocessors


def test_claimed_tiles_start_once():
    """Two of 8 blocks each, and then three."""
    start = B200.launch + 800
    for rounds in (2, 3):
        assert makespan(OWN, [8] * CHIP * rounds) == rounds * (start + 800)
        assert makespan(CLAIMING, [8] * CHIP * rounds) == start + 800 + (rounds - 1) * 1100


def test_one_tile_a_multiprocessor_gains_nothing():
    blocks = list(range(CHIP, 0, -1))
    assert makespan(CLAIMING, blocks) == makespan(OWN, blocks)


def test_a_tile_goes_to_who_asks_first():
    """One long tile, the others short: its CTA claims nothing until its own is nearly done."""
    blocks = [1000] + [10] * (CHIP - 1) * 3
    assert makespan(CLAIMING, blocks) == B200.launch + 800 + 100 * 1000
