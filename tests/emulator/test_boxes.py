"""Boxes of tensors by TMA: every rank, swizzle and kind of fill, to one CTA or to several."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boxes import Box, random_bits

PTX = Path(__file__).parent / "ptx"

# A store begins at no negative coordinate, and every box at 16 bytes.
STORED = [
    Box("u8", 0, (8, 16), (20, 48), (3, 16)),
    Box("u8", 0, (8, 32), (20, 48), (17, 32)),
    Box("f32", 0, (5, 12), (20, 16), (17, 8)),
    Box("bf16", 1, (16, 16), (20, 48), (2, 8)),
    Box("bf16", 2, (16, 32), (20, 48), (1, 32)),
    Box("bf16", 3, (16, 64), (20, 72), (8, 16)),
    Box("bf16", 3, (9, 64), (20, 72), (30, 0)),
    Box("f32", 3, (8, 32), (12, 40), (7, 32)),
    Box("bf16", 3, (2, 8, 64), (3, 10, 64), (2, 5, 0)),
    Box("bf16", 3, (1, 2, 4, 64), (2, 3, 6, 128), (1, 1, 3, 64)),
    Box("u16", 0, (1, 2, 2, 4, 8), (2, 2, 3, 6, 16), (1, 1, 2, 3, 8)),
    # One dimension: inside, over the end, nothing of it inside.
    Box("f32", 0, (32,), (100,), (40,)),
    Box("f32", 0, (64,), (100,), (72,)),
    Box("u8", 0, (16,), (64,), (64,)),
    Box("u32", 1, (8,), (64,), (4,)),
    Box("u16", 0, (4, 16), (9, 16), (2**31 - 4, 2**31 - 16)),
    # Every second or third row of the box; the step of the contiguous dimension says nothing.
    Box("f32", 0, (8, 8), (20, 16), (1, 4), steps=(2, 1)),
    Box("f32", 0, (8, 8), (20, 16), (14, 12), steps=(3, 1)),
    Box("u16", 0, (5, 4, 8), (9, 7, 16), (2, 1, 8), steps=(2, 3, 1)),
]
LOADED = [
    *STORED,
    Box("u8", 0, (8, 32), (20, 48), (-3, -16)),
    Box("f32", 0, (5, 12), (20, 16), (17, -4)),
    Box("bf16", 2, (16, 32), (20, 48), (-1, 32)),
    Box("f32", 3, (8, 32), (12, 40), (-7, -28)),
    Box("bf16", 3, (1, 2, 4, 64), (2, 3, 6, 128), (1, -1, 3, 64)),
    Box("bf16", 3, (64,), (100,), (-8,)),
    Box("u16", 0, (4, 16), (9, 16), (-(2**31), 0)),
    Box("bf16", 3, (16, 64), (40, 64), (-3, 0), steps=(2, 1)),
    Box("u8", 0, (1, 3, 5, 2, 16), (2, 4, 6, 3, 32), (1, 1, -1, 1, 16), steps=(1, 2, 2, 1, 1)),
]
FILLED = [
    Box("f32", 0, (5, 12), (20, 16), (17, -4), fill_nan=True),
    Box("bf16", 3, (9, 64), (20, 72), (15, 32), fill_nan=True),
    Box("f16", 1, (4, 16), (6, 24), (-2, 16), fill_nan=True),
    Box("f16", 0, (8,), (40,), (40,), fill_nan=True),
]


@pytest.mark.parametrize("completion", ["latest", "random"])
@pytest.mark.parametrize("box", [*LOADED, *FILLED])
def test_load(run_file, tensor_map, box, completion):
    tensor = random_bits(box.dtype, box.shape)
    expected = box.image(box.cut(tensor))
    got = np.full_like(expected, 0xEE)
    # The map's tensor is an argument that no parameter of the kernel names, so it comes last.
    described = box.describe(tensor_map, 3 + box.rank, tensor)
    run_file(
        f"tensor_load_{box.rank}d",
        described,
        got,
        np.uint32(got.nbytes),
        *map(np.int32, box.at[::-1]),
        tensor,
        shared=65536 + 64,
        completion=completion,
        read_only=(3 + box.rank,),
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("completion", ["latest", "random"])
@pytest.mark.parametrize("box", STORED)
def test_store(run_file, tensor_map, box, completion):
    tensor = random_bits(box.dtype, box.shape)
    values = random_bits(box.dtype, box.copied, seed=1)
    expected = box.paste(tensor, values)
    image = box.image(values)
    described = box.describe(tensor_map, 3 + box.rank, tensor)
    run_file(
        f"tensor_store_{box.rank}d",
        described,
        image,
        np.uint32(image.nbytes),
        *map(np.int32, box.at[::-1]),
        tensor,
        shared=65536,
        completion=completion,
    )
    np.testing.assert_array_equal(tensor, expected)


@pytest.mark.parametrize("completion", ["earliest", "latest", "random"])
@pytest.mark.parametrize("kernel", ["multicast", "multicast_pair"])
def test_load_to_every_cta_of_a_cluster(run_file, tensor_map, kernel, completion):
    box = Box("f32", 3, (4, 32), (14, 32), (0, 0))
    tensor = random_bits(box.dtype, box.shape)
    # One behind the other: only every second begins where a swizzle's pattern does.
    boxes = box.image(np.stack([box.cut(tensor, (4 * rank, 0)) for rank in range(4)]))
    got = np.zeros((8, 4, 4, 32), np.uint32)
    run_file(
        kernel,
        box.describe(tensor_map, 2, tensor),
        got,
        tensor,
        np.uint32(0b1111),
        grid=(8, 1, 1),
        cluster=(4, 1, 1),
        shared=4096 + 64,
        completion=completion,
    )
    np.testing.assert_array_equal(got, np.broadcast_to(boxes, got.shape))


@pytest.mark.parametrize("completion", ["earliest", "latest", "random"])
@pytest.mark.parametrize(
    "box",
    [
        Box("bf16", 3, (8, 64), (20, 72), (-2, 8)),
        Box("bf16", 3, (2, 8, 64), (3, 10, 72), (2, 5, 0)),
        Box("bf16", 3, (1, 2, 4, 64), (2, 3, 6, 128), (1, -1, 3, 64)),
        Box("u16", 0, (1, 2, 2, 4, 8), (2, 2, 3, 6, 16), (1, 1, 2, 3, 0)),
    ],
)
def test_a_pair_signals_one_mbarrier(run_file, tensor_map, box, completion):
    tensor = random_bits(box.dtype, box.shape)
    *slow, fast = box.at
    # The odd CTA's box begins 16 bytes later.
    step = 16 // tensor.itemsize
    expected = [box.image(box.cut(tensor, (*slow, fast + step * rank))) for rank in range(2)]
    got = np.zeros((2, *box.copied), box.dtype)
    run_file(
        f"tensor_load_pair_{box.rank}d",
        box.describe(tensor_map, 3 + box.rank, tensor),
        got,
        np.uint32(got.nbytes // 2),
        *map(np.int32, box.at[::-1]),
        tensor,
        grid=(2, 1, 1),
        cluster=(2, 1, 1),
        shared=65536 + 64,
        completion=completion,
    )
    np.testing.assert_array_equal(got, np.stack(expected))


@pytest.mark.parametrize("version", [0, 2])
def test_versions_of_maps(run_file, tensor_map, version):
    """Of a driver, which has 0, and of CuTe DSL."""
    box = Box("f32", 0, (4, 8), (8, 16), (1, 4))
    tensor = random_bits(box.dtype, box.shape)
    got = np.zeros(box.copied, np.uint32)
    described = replace(box.describe(tensor_map, 5, tensor), version=version)
    at = map(np.int32, box.at[::-1])
    run_file("tensor_load_2d", described, got, np.uint32(got.nbytes), *at, tensor, shared=66000)
    np.testing.assert_array_equal(got, box.cut(tensor))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "u32", "fill_nan": True}, "out-of-bounds fill with NaN for integers"),
        ({"swizzle": 1, "box": (4, 16)}, "a box wider than its swizzle"),
        ({"at": (0, 3)}, "misaligned: a box that begins 12 bytes from"),
        ({"at": (0, -6)}, "misaligned: a box that begins -24 bytes from"),
    ],
)
def test_maps_that_are_refused(run_file, tensor_map, finding, changes, message):
    tensor = np.zeros((8, 16), np.uint32)
    fields = {"kind": "f32", "swizzle": 0, "box": (4, 8), "shape": (8, 16), "at": (0, 0)}
    box = Box(**fields | changes)
    described = box.describe(tensor_map, 5, tensor)
    got = np.zeros(box.copied, np.uint32)
    at = map(np.int32, box.at[::-1])
    with pytest.raises(finding, match=message):
        run_file("tensor_load_2d", described, got, np.uint32(got.nbytes), *at, tensor, shared=66000)


@pytest.mark.parametrize(("step", "refused"), [((0, -30), False), ((-4, 0), False), ((1, 0), True)])
def test_prefetch(run_ptx, tensor_map, finding, step, refused):
    """Of a box that begins elsewhere than the one loaded; an H100 refuses the same."""
    text = (PTX / "tensor_load_2d.ptx").read_text()
    prefetch = f"""
  add.s32 %r30, %r10, {step[0]};
  add.s32 %r31, %r11, {step[1]};
  cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%rd2, {{%r30, %r31}}];
loaded:
"""
    box = Box("f32", 0, (4, 8), (8, 16), (1, 4))
    tensor, got = random_bits(box.dtype, box.shape), np.zeros(box.copied, np.uint32)
    described, at = box.describe(tensor_map, 5, tensor), map(np.int32, box.at[::-1])
    arguments = described, got, np.uint32(got.nbytes), *at, tensor
    with pytest.raises(finding, match="misaligned: a box") if refused else nullcontext():
        run_ptx(text.replace("\nloaded:\n", prefetch, 1), *arguments, shared=66000)
    assert refused or (got == box.cut(tensor)).all()


@pytest.mark.parametrize(("at", "dimension"), [((-1, 0), 1), ((0, -4), 0)])
def test_a_store_before_the_tensor_is_refused(run_file, tensor_map, finding, at, dimension):
    tensor = np.zeros((8, 16), np.uint32)
    box = Box("f32", 0, (4, 8), (8, 16), at)
    described = box.describe(tensor_map, 5, tensor)
    image, at = np.zeros(box.copied, np.uint32), map(np.int32, at[::-1])
    with pytest.raises(finding, match=f"tensor-map: a store to .* of dimension {dimension}"):
        run_file(
            "tensor_store_2d", described, image, np.uint32(image.nbytes), *at, tensor, shared=66000
        )
