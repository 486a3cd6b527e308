"""tcgen05.ld and tcgen05.st of every shape, packed and not."""

import numpy as np
import pytest
from tensor_shapes import Shape

SHAPES = [
    *[Shape("32x32b", repeat) for repeat in (1, 2, 4, 8, 16, 32, 64, 128)],
    *[Shape("16x64b", repeat, lane=lane) for repeat, lane in ((1, 0), (4, 16), (64, 0))],
    *[Shape("16x128b", repeat, lane=lane) for repeat, lane in ((1, 16), (8, 0), (64, 16))],
    *[Shape("16x256b", repeat, lane=lane) for repeat, lane in ((1, 0), (2, 16), (32, 0))],
    *[Shape("16x32bx2", repeat, split=split) for repeat, split in ((1, 1), (2, 7), (16, 32))],
    Shape("16x32bx2", 8, split=64, lane=16),
    Shape("32x32b", 2, packed=True),
    Shape("32x32b", 128, packed=True),
    Shape("16x64b", 4, packed=True, lane=16),
    Shape("16x128b", 4, packed=True),
    Shape("16x256b", 2, packed=True),
    Shape("16x32bx2", 4, packed=True, split=20),
]


def words(shape, seed):
    return np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_load(run_ptx, shape):
    before = words((128, shape.columns), 1)
    after = np.zeros_like(before)
    got = np.zeros((128, shape.registers), np.uint32)
    run_ptx(shape.text(True), after, before, got, block=(128, 1, 1))
    lane, column = shape.cells()
    expected = before[lane, column]
    if shape.packed:
        expected = expected & 0xFFFF | before[lane, column + 1] << 16
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("completion", ["earliest", "latest"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_store(run_ptx, shape, completion):
    before = words((128, shape.columns), 1)
    after = np.zeros_like(before)
    values = words((128, shape.registers), 2)
    run_ptx(shape.text(False), after, before, values, block=(128, 1, 1), completion=completion)
    lane, column = shape.cells()
    expected = before.copy()
    if shape.packed:
        expected[lane, column] = values & 0xFFFF
        expected[lane, column + 1] = values >> 16
    else:
        expected[lane, column] = values
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (".x4.b32 {x0, x1, x2, x3}", ".x8.b32 {x0, x1, x2, x3}", "8 registers are expected"),
        ("32x32b.x4", "32x32b.x3", "x3"),
        ("32x32b.x4", "16x32b.x4", "16x32b"),
        ("32x32b.x4.b32", "32x32b.x4.unpack::16b.b32", "unpack::16b"),
        ("tcgen05.ld.sync", "tcgen05.ld.red.sync", "red"),
        (
            "tcgen05.ld.sync.aligned.32x32b.x4.b32 {x0, x1, x2, x3}, [cell]",
            "tcgen05.ld.sync.aligned.16x32bx2.x4.b32 {x0, x1, x2, x3}, [cell], 512",
            "512 columns",
        ),
        (
            "tcgen05.wait::ld.sync.aligned;\n  st.global.b32 [mine+0]",
            "tcgen05.cp.cta_group::1.128x256b [cell], offset;\n  st.global.b32 [mine+0]",
            "cp",
        ),
        (
            "tcgen05.wait::ld.sync.aligned;\n  st.global.b32 [mine+0]",
            "tcgen05.shift.cta_group::1.down [cell];\n  st.global.b32 [mine+0]",
            "shift",
        ),
    ],
)
def test_what_is_not_known_is_refused(run_ptx, finding, old, new, message):
    shape = Shape("32x32b", 4)
    text = shape.text(True)
    assert old in text
    arrays = [np.zeros((128, shape.columns), np.uint32) for _ in range(3)]
    with pytest.raises(finding, match=f"(?s)syntax: .*{message}"):
        run_ptx(text.replace(old, new), *arrays, block=(128, 1, 1))
