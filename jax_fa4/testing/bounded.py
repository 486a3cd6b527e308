"""Random problems for bounded kernels, and what they should return.

Their bounds are whatever the arrays may say, beyond what public arguments can.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.ops import reference
from jax_fa4.ops.band import FULL
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.testing import inputs
from jax_fa4.testing.exact import Arrays, exact

LENGTHS = (1, 2, 63, 64, 65, 100, 127, 128, 129, 200, 256, 300)


@dataclass(frozen=True)
class Bounded:
    """A problem; `bounds` hold everything that rows see."""

    case: inputs.Case
    bounds: KeyBounds
    inputs: inputs.Inputs

    def definition(self, softcap: float = 0.0) -> tuple[Arrays, Arrays]:
        """out, lse and gradients, exact and by the plain formulas."""
        return definition(self.inputs, self.bounds.sees(), self.case.scale, softcap)


def definition(
    x: inputs.Inputs, visible: Any, scale: float, softcap: float = 0.0
) -> tuple[Arrays, Arrays]:
    """out, lse and gradients where row i sees key j iff visible[b, i, j]: exact, and plain."""
    mask = jnp.asarray(visible)[:, None]
    wanted = exact(x, softmax_scale=scale, band=FULL, mask=mask, softcap=softcap)
    found = _plain(x, mask, scale, softcap)
    return wanted, dict(zip(RESULTS, map(np.asarray, found), strict=True))


RESULTS = ("out", "lse", "dq", "dk", "dv")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _plain(x: inputs.Inputs, mask: jax.Array, scale: float, softcap: float) -> tuple[Any, ...]:
    options: dict[str, Any] = {"softmax_scale": scale, "mask": mask, "softcap": softcap}
    out, lse = reference.attention(*x[:3], **options)
    return out, lse, *reference.gradients(*x[:3], out, lse, x.dout, x.dlse, **options)


def problem(seed: int, head_dims: tuple[int, int], dtype: Any) -> Bounded:
    """The same for a seed: lengths, heads, head dims up to these, ids and intervals."""
    generator = np.random.default_rng(seed)
    batch = int(generator.integers(1, 3))
    sq, sk = (int(generator.choice(LENGTHS)) for _ in range(2))
    heads_kv = int(generator.integers(1, 3))
    narrower = generator.random() < 0.3
    head_dim, head_dim_v = ((d - 8 * int(generator.integers(0, 4)) * narrower) for d in head_dims)
    case = inputs.Case(
        name=f"bounded-{seed}",
        batch=batch,
        query_length=sq,
        key_length=sk,
        heads=heads_kv * int(generator.choice([1, 2, 3])),
        heads_kv=heads_kv,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
    )
    arrays = (jnp.asarray(x, jnp.int32) for x in _bounds(generator, batch, sq, sk))
    return Bounded(case, KeyBounds(*arrays), inputs.make(case, dtype))


def _bounds(generator: np.random.Generator, batch: int, sq: int, sk: int) -> tuple[Any, ...]:
    """first, last, query_ids, key_ids by one of several ways of seeing."""
    rows = np.broadcast_to(np.arange(sq), (batch, sq))
    kind = generator.choice(["causal", "window", "intervals", "lengths", "nothing"])
    first, last = np.zeros_like(rows), np.full_like(rows, sk - 1)
    if kind == "causal":
        last = rows + (sk - sq)
    elif kind == "window":
        first, last = rows - generator.integers(0, 90), rows + generator.integers(0, 90)
    elif kind == "intervals":
        first = generator.integers(-9, sk, (batch, sq))
        last = first + generator.integers(-3, sk, (batch, sq))
    elif kind == "lengths":
        last = np.where(rows < generator.integers(0, sq + 1, (batch, 1)), last, -1)
        last = np.minimum(last, generator.integers(-1, sk, (batch, 1)))
    elif kind == "nothing":
        last = np.full_like(rows, -1)
    first, last = np.maximum(first, 0), np.minimum(last, sk - 1)
    segments = int(generator.choice([1, 2, 5]))
    ids = [generator.integers(-segments, 0, (batch, n)) for n in (sq, sk)]
    if generator.random() < 0.7:  # runs, as packing makes them
        ids = [np.sort(x, axis=1) for x in ids]
    return first, last, *ids
