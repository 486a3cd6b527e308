"""Exchange between lanes, and loads and stores of every width."""

import numpy as np
import pytest


def shuffled(mode, lane, amount, packed):
    """(source lane, in range) by the manual's text."""
    amount, clamp, segment = amount & 31, packed & 31, packed >> 8 & 31
    top = (lane & segment) | (clamp & ~segment)
    bottom = lane & segment
    source = {
        "idx": bottom | (amount & ~segment),
        "bfly": lane ^ amount,
        "up": lane - amount,
        "down": lane + amount,
    }[mode]
    valid = source >= top if mode == "up" else source <= top
    return (source, 1) if valid else (lane, 0)


@pytest.mark.parametrize("packed", [31, 0, 0x1807, 0x1800, 0x101F, 0x1C03, 0x0F0F])
@pytest.mark.parametrize("amount", [0, 1, 4, 16, 31, 33])
def test_shfl(run_file, amount, packed):
    values = np.arange(32, dtype=np.uint32) * 3 + 5
    got = np.zeros((4, 32, 2), np.uint32)
    run_file("shfl", got, values, np.uint32(amount), np.uint32(packed))
    for mode, rows in zip(("idx", "bfly", "up", "down"), got, strict=True):
        for lane, (value, valid) in enumerate(rows.tolist()):
            source, expected = shuffled(mode, lane, amount, packed)
            assert (value, valid) == (values[source], expected), (mode, lane)


@pytest.mark.parametrize("votes", [0, 0xFFFFFFFF, 0x00010000, 0x8000FFFF, 0x0000FFFF])
def test_vote_and_elect(run_file, votes):
    values = np.array([votes >> lane & 1 for lane in range(32)], np.uint32)
    ballot, inverse, modes, elected, lower = got = np.zeros((5, 32), np.uint32)
    run_file("vote", got, values)
    unanimous = votes in (0, 0xFFFFFFFF)
    assert (ballot == votes).all()
    assert (inverse == votes ^ 0xFFFFFFFF).all()
    assert (modes == (votes != 0) + 2 * (votes == 0xFFFFFFFF) + 4 * unanimous).all()
    assert elected.sum() == 1
    assert (lower[:16] == votes & 0xFFFF).all()
    assert (lower[16:] == 0xFFFFFFFF).all()


@pytest.mark.parametrize("space", ["global", "shared"])
def test_widths(run_file, space):
    values = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    got = np.zeros_like(values)
    run_file(f"widths_{space}", got, values, block=(64, 1, 1))
    expected = values.copy()
    expected[:, 56:60] = values[:, 56:57].view(np.int8).astype(np.int32).view(np.uint8)
    halves = np.ascontiguousarray(values[:, 60:62]).view(np.int16).astype(np.int32)
    expected[:, 60:64] = halves.view(np.uint8)
    np.testing.assert_array_equal(got, expected)


def test_generic_ordered_atomic(run_file):
    values = np.random.default_rng(1).integers(-1000, 1000, 32).astype(np.int32)
    got = np.zeros(68, np.int32)
    got[64:67] = [7, -5, 1 << 20]
    run_file("generic", got, values)
    np.testing.assert_array_equal(got[:32], values)
    np.testing.assert_array_equal(got[32:64], values)
    bits = np.bitwise_or.reduce(values) | 1 << 20
    assert got[64:].tolist() == [7 + values.sum(), max(-5, values.max()), bits, values.sum()]


def test_local(run_file):
    values = np.random.default_rng(2).integers(-(2**31), 2**31, (64, 4)).astype(np.int32)
    got = np.zeros((64, 8), np.int32)
    run_file("local", got, values, block=(64, 1, 1))
    index = (values[:, 0] & 12) // 4
    chosen = values[np.arange(64), index]
    halves = values[:, 1] >> 16
    with np.errstate(over="ignore"):
        first = values[:, 0] + values[:, 2]
    columns = (chosen, values[:, 2], values[:, 3], halves, first, *values.T[1:])
    np.testing.assert_array_equal(got, np.stack(columns, 1))
