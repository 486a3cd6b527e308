"""How the arrays of one call lie on the devices of a mesh, and what a device does with its part.

Dimensions are letters, an array's a string of them: b batch, t rows of queries, s rows of keys,
h query heads, k key heads, capitals axes of jax.vmap, anything else a dimension that is whole on
every device. A layout gives mesh axes to letters, one choice for all arrays of a call, so that
what the compiler or the caller did with each of them cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jax_fa4.ops import manual_axes
from jax_fa4.ops.band import FULL, UNBOUNDED, Band

Axes = tuple[str, ...]
Arrays = tuple[jax.Array, ...]
# Computes results from the operands, or from a device's part of them, and the band of its rows.
Compute = Callable[..., Arrays]


@dataclass(frozen=True)
class Layout:
    """Mesh axes of the letters; those of k are the first of those of h, or all of them.

    Devices with query heads of one key head all hold that key head: with more devices than key
    heads a device takes those that its query heads need from the ones it holds.
    """

    axes: Mapping[str, Axes]
    devices: Mapping[str, int]  # along each mesh axis
    sizes: Mapping[str, int]  # of the letters, over all devices

    @classmethod
    def choose(
        cls,
        devices: Mapping[str, int],
        sizes: Mapping[str, int],
        found: Iterable[tuple[str, Sequence[Any]]],
    ) -> Layout:
        """The layout of arrays found as (letters, entries of a PartitionSpec), the first first.

        A letter keeps the mesh axes that the first array has it on, as far as their devices
        divide it evenly; no axis serves two letters.
        """
        axes: dict[str, Axes] = {}
        for dims, entries in found:
            for letter, entry in zip(dims, entries, strict=False):
                target = "h" if letter == "k" else letter
                if not (target in "bth" or target.isupper()) or axes.get(target):
                    continue
                used = {axis for taken in axes.values() for axis in taken}
                free = [axis for axis in _names(entry) if axis in devices and axis not in used]
                axes[target] = _dividing(free, devices, sizes[letter])
        if "k" in sizes:
            axes["k"] = _dividing(axes.get("h", ()), devices, sizes["k"])
        return cls(axes, devices, sizes)

    def spec(self, dims: str) -> PartitionSpec:
        make: Callable[..., PartitionSpec] = PartitionSpec
        return make(*(self.axes.get(letter) or None for letter in dims))

    def missing(self, dims: str) -> Axes:
        """Mesh axes of other letters: devices along them hold copies of the array, or addends."""
        own = {axis for letter in dims for axis in self.axes.get(letter, ())}
        return tuple(sorted(self.used() - own))

    def used(self) -> set[str]:
        """Mesh axes that are some letter's."""
        return {axis for taken in self.axes.values() for axis in taken}

    def count(self, letter: str) -> int:
        """Parts that the letter is cut into."""
        return _product(self.axes.get(letter, ()), self.devices)

    def local(
        self, compute: Compute, band: Band, dims: Sequence[str], results: Sequence[str]
    ) -> Callable[..., Arrays]:
        """What a device runs on its parts of the operands to have its parts of the results."""

        def run(*operands: jax.Array) -> Arrays:
            # Under shard_map with check_vma: all vary as the one does that varies most.
            axes = frozenset[Any]().union(*map(manual_axes.varying_axes, operands))
            parts = [manual_axes.vary(x, axes) for x in operands]
            parts = [self._own_key_heads(x, d) for x, d in zip(parts, dims, strict=True)]
            found = self._own_rows(compute, band, parts)
            return tuple(self._sum(x, d) for x, d in zip(found, results, strict=True))

        return run

    def _own_rows(self, compute: Compute, band: Band, parts: Sequence[jax.Array]) -> Arrays:
        """Row i of a device is row i + first of the call: its band is shifted by that."""
        count = self.count("t")
        if count == 1 or band == FULL:
            return compute(band, *parts)
        rows = self.sizes["t"] // count
        bands = [_shift(band, device * rows) for device in range(count)]

        # The band is a constant of the kernel's call: one call for each, of which one is made.
        def branch(own: Band) -> Callable[..., Arrays]:
            return lambda *x: compute(own, *x)

        device = lax.axis_index(self.axes["t"])
        chosen: Arrays = lax.switch(device, [branch(own) for own in bands], *parts)
        return chosen

    def _key_heads(self) -> jax.Array | None:
        """Which of the key heads that it holds a device's query heads use; None for all.

        The query heads of a device fall into runs of one key head; runs as long as all can be.
        """
        spread = self.count("h") // self.count("k")
        if spread == 1:
            return None
        heads = self.sizes["h"] // self.count("h")
        group = self.sizes["h"] // self.sizes["k"]
        run = math.gcd(heads, group)
        first = lax.axis_index(self.axes["h"]) % spread * heads
        return jnp.asarray((first + run * jnp.arange(heads // run)) // group)

    def _own_key_heads(self, x: jax.Array, dims: str) -> jax.Array:
        if "k" not in dims or (chosen := self._key_heads()) is None:
            return x
        own: jax.Array = jnp.take(x, chosen, axis=dims.index("k"))
        return own

    def _sum(self, x: jax.Array, dims: str) -> jax.Array:
        """A result that devices hold addends of, such as the gradients of shared key heads."""
        axes = self.missing(dims)
        if not axes:
            return x
        total = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if "k" in dims and (chosen := self._key_heads()) is not None:
            axis = dims.index("k")
            shape = list(x.shape)
            shape[axis] = self.sizes["k"] // self.count("k")
            at = (slice(None),) * axis + (chosen,)
            total = jnp.zeros_like(total, shape=shape).at[at].add(total)
        total = lax.psum(total, axes)
        summed: jax.Array = total.astype(x.dtype)
        return summed


def sizes(arrays: Sequence[Any], dims: Sequence[str]) -> dict[str, int]:
    """Sizes of the letters."""
    return {
        d: n
        for x, own in zip(arrays, dims, strict=True)
        for d, n in zip(own, x.shape, strict=False)
    }


def _names(entry: Any) -> Axes:
    if isinstance(entry, str):
        return (entry,)
    return tuple(entry) if isinstance(entry, tuple) else ()


def _dividing(axes: Sequence[str], devices: Mapping[str, int], size: int) -> Axes:
    """The longest beginning of `axes` whose devices divide `size`."""
    for end in range(len(axes), 0, -1):
        if size % _product(axes[:end], devices) == 0:
            return tuple(axes[:end])
    return ()


def _product(axes: Sequence[str], devices: Mapping[str, int]) -> int:
    return math.prod(devices[axis] for axis in axes)


def _shift(band: Band, rows: int) -> Band:
    """The band of the rows from `rows` on, counted from there; open sides stay open."""
    lower, upper = (x if abs(x) == UNBOUNDED else x + rows for x in (band.lower, band.upper))
    return Band(lower, min(upper, UNBOUNDED))
