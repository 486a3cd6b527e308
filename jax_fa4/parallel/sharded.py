"""context_parallel_attention: both forms on whole arrays of a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from jax_fa4.ops import checks
from jax_fa4.parallel import errors
from jax_fa4.parallel.attention import ring_attention
from jax_fa4.parallel.layouts import Layout
from jax_fa4.parallel.ulysses import ulysses_attention

Strategy = Literal["ring", "ulysses"]
_STRATEGIES: dict[str, Callable[..., Any]] = {"ring": ring_attention, "ulysses": ulysses_attention}


def context_parallel_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    spec: PartitionSpec,
    layout: Layout,
    strategy: Strategy = "ring",
    mesh: Mesh | None = None,
    learnable_sink: ArrayLike | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    return_lse: bool = False,
    **options: Any,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`ring_attention` or `ulysses_attention` of whole arrays, in a `jax.shard_map` of its own.

    Args:
      q, k, v: (B, S, H, D) as `ring_attention` has them, with the rows of the whole sequence in
        `layout` (`to_layout`).
      spec: the mesh axes of batch, sequence and heads, as the arrays are sharded:
        PartitionSpec("data", "context", "model"), None where there is none. Those of the
        sequence may not be None.
      layout: as `ring_attention`.
      strategy: "ring" or "ulysses".
      mesh: None for that of `jax.set_mesh`.
      learnable_sink: (Hq,), as `flash_attention`.
      query_segment_ids, key_value_segment_ids: integers (B, S) in `layout`, as `ring_attention`.
      return_lse: return (out, lse) instead.
      options: the other options of `ring_attention` or `ulysses_attention`.

    Returns:
      out (B, S, Hq, Dv), sharded as q, in `layout` like q; with return_lse also lse (B, Hq, S)
      float32. Both are differentiable.

    Raises:
      ValueError, NotImplementedError: as `ring_attention` and `ulysses_attention`.
    """
    checks.choice("strategy", strategy, tuple(_STRATEGIES))
    batch, sequence, heads = _axes(spec)
    function = functools.partial(
        _STRATEGIES[strategy], axis_name=sequence, layout=layout, return_lse=True, **options
    )
    heads_first = _spec(batch, heads, sequence)
    rows, whole = _spec(batch, sequence), _spec(batch, sequence, heads)
    given = {
        "learnable_sink": (learnable_sink, _spec(heads)),
        "query_segment_ids": (query_segment_ids, rows),
        "key_value_segment_ids": (key_value_segment_ids, rows),
    }
    given = {name: pair for name, pair in given.items() if pair[0] is not None}

    def local(q: Any, k: Any, v: Any, more: dict[str, Any]) -> Any:
        return function(q, k, v, **more)

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, whole, whole, {name: spec for name, (_, spec) in given.items()}),
        out_specs=(whole, heads_first),
    )
    out, lse = mapped(q, k, v, {name: x for name, (x, _) in given.items()})
    return (out, lse) if return_lse else out


def _axes(spec: PartitionSpec) -> tuple[Any, Any, Any]:
    """The mesh axes of batch, sequence and heads."""
    if not isinstance(spec, PartitionSpec):
        raise errors.bad_spec(spec, "it is not a jax.sharding.PartitionSpec")
    entries = (*spec, None, None, None)
    if any(entry is not None for entry in entries[3:]):
        raise errors.bad_spec(spec, "a head dim is never split")
    if entries[1] is None:
        raise errors.bad_spec(spec, "the sequence, its second entry, is not split")
    return entries[0], entries[1], entries[2]


def _spec(*axes: Any) -> PartitionSpec:
    make: Any = PartitionSpec
    spec: PartitionSpec = make(*axes)
    return spec
