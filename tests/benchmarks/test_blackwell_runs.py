"""What the counts of whole emulated runs say of a run small enough to count by hand."""

import pytest

from benchmarks.blackwell import runs


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(runs, "LENGTH", 256)


@pytest.mark.parametrize("head_dim", runs.HEAD_DIMS)
def test_two_tiles_of_two_blocks(short, head_dim):
    """Four products of scores in D / 16 steps, four with V in 8; P for 256 x 256 scores."""
    found = runs.counts(runs.Run(head_dim, False, 1).record(), head_dim)
    assert found["tcgen05.mma"] == 4 * (head_dim // 16 + 8)
    assert found["shared memory, written by TMA, MB"] == f"{3 * 256 * head_dim * 2 / 1e6:.1f}"
    assert found["shared memory, read by products, MB"] == f"{4 * 3 * 256 * head_dim / 1e6:.1f}"
    assert found["output stored by TMA, MB"] == f"{256 * head_dim * 2 / 1e6:.2f}"
    polynomial = int(str(found["exponentials by polynomial"]).split()[0])
    # Special units also make a factor a row and block, for the output.
    rest = int(found["exponentials by special units"]) - (256 * 256 - polynomial)
    assert 0 < rest <= 4 * 256
    assert found["blocks of a warp's 32 rows after the first"] == 8


def test_a_wider_spread_scales_more_and_a_mask_leaves_blocks_out(short):
    def scaled(spread):
        found = runs.counts(runs.Run(64, False, spread).record(), 64)
        return int(str(found["of these, output scaled"]).split()[0])

    assert scaled(1) == 0 < scaled(8)
    causal = runs.counts(runs.Run(64, True, 1).record(), 64)
    assert causal["tcgen05.mma"] == 3 * (64 // 16 + 8)


def test_every_role_waits(short):
    found = runs.waits(runs.Run(64, False, 1).record())
    for role in ("softmax", "correction", "products", "loads", "stores"):
        total, waited = map(int, found[f"{role}: waits, of which waited"].split(", "))
        assert 0 < waited <= total
