"""The C ABI of compiled kernels: which arguments each entry point takes, in which order.

csrc/kernel_arguments.h states the same lists for the caller; tests/aot compares the two. The
fingerprint of a variant covers its own list, not this file.
"""

from __future__ import annotations

from jax_fa4.aot.arguments import Argument, Kind
from jax_fa4.variants.variant import (
    BackwardPostprocessVariant,
    BackwardPreprocessVariant,
    BackwardVariant,
    DecodeCombineVariant,
    DecodeVariant,
    DType,
    ForwardVariant,
    Variant,
)

_INPUTS = (
    Argument("q", Kind.ELEMENTS),
    Argument("k", Kind.ELEMENTS),
    Argument("v", Kind.ELEMENTS),
)
_DESCALES = (
    Argument("q_descale", Kind.FLOATS),
    Argument("k_descale", Kind.FLOATS),
    Argument("v_descale", Kind.FLOATS),
)
# What each row of queries may see, by batch element (ops/key_bounds.py says it in full): first and
# last key and segment id of a row (row_bounds (B, Sq, 2), query_ids), the keys' ids, and a summary
# of each 64 rows, by which blocks of keys are skipped or go unmasked (query_groups (B, Sq/64, 4)).
_BOUNDS = (
    Argument("row_bounds", Kind.INTS),
    Argument("query_ids", Kind.INTS),
    Argument("key_ids", Kind.INTS),
    Argument("query_groups", Kind.INTS),
)
_SHAPE = (
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_k", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("heads_kv", Kind.I32),
    Argument("head_dim", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("softmax_scale", Kind.F32),
)
_SOFTCAP = (Argument("softcap", Kind.F32),)  # 0 for kernels that cap nothing
_BAND = (
    Argument("band_lower", Kind.I32),  # bounded kernels take the band, and ignore it
    Argument("band_upper", Kind.I32),
    Argument("sm_count", Kind.I32),
    Argument("stream", Kind.STREAM),
)
_RESULTS = (Argument("out", Kind.OUTPUTS), Argument("lse", Kind.FLOATS))
FORWARD: tuple[Argument, ...] = (*_INPUTS, *_RESULTS, *_SHAPE, *_BAND)
FORWARD_FP8: tuple[Argument, ...] = (*_INPUTS, *_DESCALES, *_RESULTS, *_SHAPE, *_BAND)
FORWARD_BOUNDED: tuple[Argument, ...] = (
    *_INPUTS,
    *_BOUNDS,
    Argument("sinks", Kind.FLOATS),  # (Hq,), natural logarithm; -inf for none
    *_RESULTS,
    *_SHAPE,
    *_SOFTCAP,
    *_BAND,
)

# The three kernels of the backward, in the order in which they run. Their scratch (delta, lse_log2,
# dq_accum, semaphores) covers whole tiles: `seqlen_q_padded` rows of each (batch, head), and
# `dq_tile_width` columns of dq, the main kernel's width.
BACKWARD_PREPROCESS: tuple[Argument, ...] = (
    Argument("out", Kind.ELEMENTS),
    Argument("dout", Kind.ELEMENTS),
    Argument("lse", Kind.FLOATS),
    Argument("dlse", Kind.FLOATS),
    Argument("delta", Kind.FLOATS),
    Argument("lse_log2", Kind.FLOATS),
    Argument("dq_accum", Kind.FLOATS),
    Argument("semaphores", Kind.INTS),
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_q_padded", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("dq_tile_width", Kind.I32),
    Argument("stream", Kind.STREAM),
)

_GRADIENT_INPUTS = (*_INPUTS, Argument("dout", Kind.ELEMENTS))
_GRADIENT_RESULTS = (
    Argument("lse_log2", Kind.FLOATS),
    Argument("delta", Kind.FLOATS),
    Argument("dq_accum", Kind.FLOATS),
    Argument("dk", Kind.ELEMENTS),
    Argument("dv", Kind.ELEMENTS),
    Argument("semaphores", Kind.INTS),
)
BACKWARD: tuple[Argument, ...] = (*_GRADIENT_INPUTS, *_GRADIENT_RESULTS, *_SHAPE, *_BAND)
BACKWARD_BOUNDED: tuple[Argument, ...] = (
    *_GRADIENT_INPUTS,
    *_BOUNDS,
    Argument("key_groups", Kind.INTS),  # (B, Sk/64, 2): first and last row that sees any of 64 keys
    *_GRADIENT_RESULTS,
    *_SHAPE,
    *_SOFTCAP,
    *_BAND,
)

BACKWARD_POSTPROCESS: tuple[Argument, ...] = (
    Argument("dq_accum", Kind.FLOATS),
    Argument("dq", Kind.ELEMENTS),
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("seqlen_q_padded", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("head_dim", Kind.I32),
    Argument("dq_tile_width", Kind.I32),
    Argument("softmax_scale", Kind.F32),
    Argument("stream", Kind.STREAM),
)


# Few queries against a cache of pages, and the merger of its parts. Caches are pages of page_size
# keys: (num_pages, page_size, heads_kv, head_dim).
_PARTS = (
    Argument("out_partial", Kind.FLOATS),  # (num_splits, B, Hq, Sq, Dv)
    Argument("lse_partial", Kind.FLOATS),  # (num_splits, B, Hq, Sq)
)
DECODE: tuple[Argument, ...] = (
    *_INPUTS,
    Argument("page_table", Kind.INTS),  # (B, pages_per_sequence)
    Argument("lengths", Kind.INTS),  # (B,)
    Argument("sinks", Kind.FLOATS),
    *_RESULTS,
    *_PARTS,
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("heads_kv", Kind.I32),
    Argument("head_dim", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("num_pages", Kind.I32),
    Argument("page_size", Kind.I32),
    Argument("pages_per_sequence", Kind.I32),
    Argument("num_splits", Kind.I32),
    Argument("softmax_scale", Kind.F32),
    Argument("softcap", Kind.F32),
    Argument("band_lower", Kind.I32),
    Argument("band_upper", Kind.I32),
    Argument("stream", Kind.STREAM),
)
DECODE_COMBINE: tuple[Argument, ...] = (
    *_PARTS,
    Argument("lengths", Kind.INTS),
    Argument("sinks", Kind.FLOATS),
    *_RESULTS,
    Argument("batch", Kind.I32),
    Argument("seqlen_q", Kind.I32),
    Argument("heads_q", Kind.I32),
    Argument("head_dim_v", Kind.I32),
    Argument("capacity", Kind.I32),
    Argument("num_splits", Kind.I32),
    Argument("band_lower", Kind.I32),
    Argument("band_upper", Kind.I32),
    Argument("stream", Kind.STREAM),
)


def signature(variant: Variant) -> tuple[Argument, ...]:
    """The arguments of the variant's entry point."""
    match variant:
        case ForwardVariant(dtype=DType.E4M3):
            return FORWARD_FP8
        case ForwardVariant(bounded=True):
            return FORWARD_BOUNDED
        case ForwardVariant():
            return FORWARD
        case BackwardPreprocessVariant():
            return BACKWARD_PREPROCESS
        case BackwardVariant(bounded=True):
            return BACKWARD_BOUNDED
        case BackwardVariant():
            return BACKWARD
        case BackwardPostprocessVariant():
            return BACKWARD_POSTPROCESS
        case DecodeVariant():
            return DECODE
        case DecodeCombineVariant():
            return DECODE_COMBINE
