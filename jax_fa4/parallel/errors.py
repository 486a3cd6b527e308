"""Every refusal of context parallelism: what was wrong, with which value, what to do instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Options of dot_product_attention that need, or change, single scores.
_SCORES = ("bias", "mask", "score_mod", "mask_mod")
_DROPOUT = ("dropout_rate", "dropout_rng", "broadcast_dropout")
_LENGTHS = ("query_seq_lengths", "key_value_seq_lengths")


def no_such_axis(axis_name: Any) -> ValueError:
    return ValueError(
        f"axis_name={axis_name!r} is not a manual mesh axis here; call inside jax.shard_map over a "
        "mesh with that axis, or call context_parallel_attention on whole arrays"
    )


def unequal_shards(query_length: int, key_length: int) -> NotImplementedError:
    return NotImplementedError(
        f"q has {query_length} rows and k has {key_length} on each device, and the ring needs as "
        "many of both; ulysses_attention takes unequal lengths"
    )


def odd_zigzag_shard(length: int, shards: int) -> ValueError:
    return ValueError(
        f"layout='zigzag' gives each device two equal chunks, and {length} rows a device do not "
        f"halve; pad the sequence to a multiple of {2 * shards} rows, or use layout='striped'"
    )


def length_does_not_split(length: int, shards: int, layout: Any) -> ValueError:
    multiple = 2 * shards if layout == "zigzag" else shards
    return ValueError(
        f"a sequence of {length} rows does not split into {shards} shards of layout={layout!r}; "
        f"pad it to a multiple of {multiple}"
    )


def sequence_too_long(length: int, shards: int) -> ValueError:
    return ValueError(
        f"{shards} devices with {length} rows each make a sequence of {shards * length}; positions "
        "are int32 and lengths must be below 2**30: split the sequence"
    )


def heads_do_not_split(heads: int, devices: int) -> NotImplementedError:
    return NotImplementedError(
        f"q has {heads} heads, which do not split over {devices} devices; use ring_attention, "
        "which leaves the heads where they are, or a mesh axis whose size divides them"
    )


def bad_spec(spec: Any, why: str) -> ValueError:
    return ValueError(
        f"spec={spec!r}: {why}; give the mesh axes of (batch, sequence, heads), such as "
        'PartitionSpec("data", "context", "model")'
    )


def unknown_option(name: str, call: str, known: Iterable[str]) -> Exception:
    if name in _SCORES + _DROPOUT:
        return NotImplementedError(
            f"{call} takes no {name}; call dot_product_attention, which does, on whole sequences "
            "(batch and heads may be split over devices)"
        )
    if name in _LENGTHS:
        return NotImplementedError(
            f"{call} takes no {name}; give the rows past the end query_segment_ids and "
            "key_value_segment_ids that no other row has"
        )
    return TypeError(f"{call} has no option {name!r}; the options are {', '.join(sorted(known))}")
