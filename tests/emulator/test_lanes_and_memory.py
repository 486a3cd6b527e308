"""Exchange between lanes, and loads and stores of every width."""

import itertools

import numpy as np
import pytest
import scalar_model


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


VECTORS_OF_8 = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry kernel(.param .u64 to, .param .u64 from)
{
  .reg .b32 %r<16>;
  .reg .b64 %rd<8>;
  mov.u32 %r0, %tid.x;
  mul.wide.u32 %rd2, %r0, 32;
  ld.param.b64 %rd0, [to];
  ld.param.b64 %rd1, [from];
  add.s64 %rd0, %rd0, %rd2;
  add.s64 %rd1, %rd1, %rd2;
  ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%rd1];
  st.global.v8.b32 [%rd0+OFFSET], {%r8, %r7, %r6, %r5, %r4, %r3, %r2, %r1};
  ret;
}
"""


def test_vectors_of_8(run_ptx, finding):
    values = np.random.default_rng(1).integers(0, 2**32, (32, 8), np.uint32)
    got = np.zeros_like(values)
    run_ptx(VECTORS_OF_8.replace("OFFSET", "0"), got, values)
    np.testing.assert_array_equal(got, values[:, ::-1])
    with pytest.raises(finding, match=r"misaligned: .* not aligned to 32"):
        run_ptx(VECTORS_OF_8.replace("OFFSET", "16"), got, values)
    for wrong in (".shared.v8.b32", ".global.v8.b64"):
        with pytest.raises(finding, match="syntax: "):
            run_ptx(VECTORS_OF_8.replace(".global.v8.b32", wrong), got, values)


ADD_FLOATS = """
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 d, .param .u64 a)
{
  .shared .align 16 .b8 memory[384];
  .reg .b32 %r<4>;
  .reg .f32 %f<4>;
  .reg .b64 %rd<4>;
  ld.param.b64 %rd0, [d];
  ld.param.b64 %rd1, [a];
  mov.u32 %r0, %tid.x;
  mul.wide.u32 %rd2, %r0, 4;
  add.s64 %rd0, %rd0, %rd2;
  add.s64 %rd1, %rd1, %rd2;
  ld.global.f32 %f0, [%rd1];
  mov.u32 %r1, memory;
  shl.b32 %r2, %r0, 2;
  add.u32 %r1, %r1, %r2;
  ld.global.f32 %f1, [%rd0];
  st.shared.f32 [%r1], %f1;
  INSTRUCTION
  ret;
}
"""


@pytest.mark.parametrize("space", ["red.global", "atom.global", "atom.shared"])
def test_atomic_sums_of_floats(run_ptx, space):
    """In global memory subnormals are flushed, in shared memory they are not."""
    instruction = {
        "red.global": "red.global.add.f32 [%rd0], %f0;",
        "atom.global": "atom.global.add.f32 %f2, [%rd0], %f0;\nst.global.f32 [%rd1], %f2;",
        "atom.shared": "atom.shared.add.f32 %f2, [%r1], %f0;\nst.global.f32 [%rd1], %f2;\n"
        "ld.shared.f32 %f3, [%r1];\nst.global.f32 [%rd0], %f3;",
    }[space]
    values = [1e-40, 1e-40, 1.0, -0.0, 1e-38, -1.5e-38, np.inf, np.nan, 3.4e38, 2.0]
    pairs = np.array(list(itertools.product(values, values))[:96], np.float32)
    total, term = pairs[:, 0].copy(), pairs[:, 1].copy()
    run_ptx(ADD_FLOATS.replace("INSTRUCTION", instruction), total, term, block=(96, 1, 1))
    flush = scalar_model.flush if space.endswith("global") else int
    for old, added, got, returned in zip(*pairs.T, total, term, strict=True):
        x, y, z, old_again = (int(value.view(np.uint32)) for value in (old, added, got, returned))
        assert z == flush(scalar_model.add(flush(x), flush(y)))
        assert old_again == (y if space.startswith("red") else x)


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


def test_shared_vectors(run_file):
    values = random_words((32, 8))
    got = np.zeros_like(values)
    run_file("shared_vectors", got, values)
    np.testing.assert_array_equal(got, values[:, [4, 5, 6, 7, 2, 3, 0, 1]])


def test_vectors_of_64_bits(run_file):
    values = random_words((32, 4, 2))
    got = np.zeros_like(values)
    run_file("vectors_of_64_bits", got, values)
    np.testing.assert_array_equal(got, values[:, ::-1])


def random_words(shape):
    return np.random.default_rng(4).integers(0, 2**32, shape, dtype=np.uint32)
