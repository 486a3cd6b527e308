"""The rule by which the compiler spreads a kernel's custom call over the devices of its mesh.

It knows shardings that the traced program does not, and asks when it has chosen them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding

from jax_fa4.ops.band import Band
from jax_fa4.ops.layout import Arrays, Compute, Layout, sizes


def partitioned(
    compute: Compute, band: Band, dims: Sequence[str], results: Sequence[str], name: Hashable
) -> Compute:
    """`compute` of whole arrays, which the compiler may spread over the devices of its mesh."""

    def whole(*operands: jax.Array) -> Arrays:
        return compute(band, *operands[:-1])

    def partition(mesh: Any, operands: Any, found: Any) -> Any:
        letters = (*dims, "")
        specs = [_entries(x) for x in (*operands, *found)]
        layout = Layout.choose(
            mesh.shape, sizes(operands, letters), zip((*letters, *results), specs, strict=True)
        )
        local = layout.local(compute, band, dims, results)
        shardings = [[NamedSharding(mesh, layout.spec(d)) for d in x] for x in (results, letters)]
        return mesh, lambda *x: local(*x[:-1]), *map(tuple, shardings)

    call = custom_partitioning(whole)

    def run(*operands: jax.Array) -> Arrays:
        rule, options = sharding_rule(sizes(operands, dims), dims, results)
        call.def_partition(partition, sharding_rule=rule, **options)
        identity = _digest(name, band, dims, results)
        outputs: Arrays = call(*operands, jnp.asarray(identity))
        return outputs

    return run


def sharding_rule(
    sizes: dict[str, int], dims: Sequence[str], results: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Shardy's rule for arrays of these letters and one array more, and its options."""
    group = sizes["h"] // sizes["k"]
    heads = "k" if group == 1 else "g" if sizes["k"] == 1 else "(k g)"
    whole: dict[str, None] = {}

    def factor(letter: str, place: str) -> str:
        if letter in "btk" or letter.isupper():
            return letter
        if letter == "h":
            return heads
        own = letter if letter.islower() else f"w{place}"
        whole[own] = None
        return own

    arrays = [
        " ".join(factor(letter, f"{i}x{j}") for j, letter in enumerate(own))
        for i, own in enumerate((*dims, ".", *results))
    ]
    count = len(dims) + 1
    rule = f"{', '.join(arrays[:count])} -> {', '.join(arrays[count:])}"
    options: dict[str, Any] = {"need_replication_factors": tuple(whole)}
    return rule, options | ({"g": group} if heads == "(k g)" else {})


def _entries(x: Any) -> tuple[Any, ...]:
    return tuple(x.sharding.spec) if isinstance(x.sharding, NamedSharding) else ()


def _digest(*parts: Any) -> np.ndarray[Any, Any]:
    """A few numbers that stand for everything static of a call, an operand that nothing reads.

    The program that JAX looks up in its persistent compilation cache names a partitioned call by
    an address in memory (or by nothing: jax_remove_custom_partitioning_ptr_from_cache_key), not by
    what is called. Two calls that differ in their scale alone must not find each other's.
    """
    return np.frombuffer(hashlib.sha256(repr(parts).encode()).digest(), np.uint32)
