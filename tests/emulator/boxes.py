"""Boxes of tensors, as TMA copies them and as they lie in shared memory."""

from dataclasses import dataclass

import numpy as np

DTYPES = {
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "f16": np.uint16,
    "f32": np.uint32,
    "bf16": np.uint16,
}


NAN = {2: 0x7FF7, 4: 0x7FF77FF7}  # what an H100 fills with


def random_bits(dtype, shape, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


@dataclass(frozen=True)
class Box:
    """Slowest dimension first: the box, the tensor, where the box begins.

    With `steps` every so many elements of the box are copied; the last, along the contiguous
    dimension, says nothing.
    """

    kind: str
    swizzle: int  # 0 none, 1: 32 bytes, 2: 64, 3: 128
    box: tuple[int, ...]
    shape: tuple[int, ...]
    at: tuple[int, ...]
    steps: tuple[int, ...] = ()
    fill_nan: bool = False

    @property
    def rank(self):
        return len(self.box)

    @property
    def dtype(self):
        return DTYPES[self.kind]

    @property
    def copied(self):
        """The box's dimensions in shared memory."""
        steps = (*self.steps[:-1], 1) if self.steps else (1,) * self.rank
        return tuple(-(-size // step) for size, step in zip(self.box, steps, strict=True))

    def places(self, at):
        """(index in shared memory, place in the tensor or None) of every element."""
        steps = (*self.steps[:-1], 1) if self.steps else (1,) * self.rank
        for index in np.ndindex(*self.copied):
            place = tuple(a + i * s for a, i, s in zip(at, index, steps, strict=True))
            inside = all(0 <= p < size for p, size in zip(place, self.shape, strict=True))
            yield index, place if inside else None

    def cut(self, tensor, at=None):
        """The box of `tensor`, filled outside of it."""
        outside = NAN[tensor.itemsize] if self.fill_nan else 0
        result = np.full(self.copied, outside, tensor.dtype)
        for index, place in self.places(self.at if at is None else at):
            if place is not None:
                result[index] = tensor[place]
        return result

    def paste(self, tensor, values):
        """`tensor` with `values` where the box is."""
        result = tensor.copy()
        for index, place in self.places(self.at):
            if place is not None:
                result[place] = values[index]
        return result

    def image(self, values):
        """16-byte chunks exchanged within the swizzle's width, by the address that they have."""
        chunks = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 16)
        result = np.zeros_like(chunks)
        for number, chunk in enumerate(chunks):
            result[number ^ (number >> 3) % (1 << self.swizzle)] = chunk
        return result.reshape(-1).view(values.dtype).reshape(values.shape)

    def describe(self, tensor_map, argument, tensor):
        return tensor_map(
            argument,
            self.kind,
            tensor.shape[::-1],
            tuple(reversed(tensor.strides[:-1])),
            self.box[::-1],
            self.swizzle,
            steps=self.steps[::-1],
            fill_nan=self.fill_nan,
        )
