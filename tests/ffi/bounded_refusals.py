"""What the bounded targets refuse beside the others: what it is -> (changes, words)."""

import jax.numpy as jnp
import numpy as np
from bad_calls import BF16, F32, FP16

INT32 = jnp.int32

BOUNDS_REFUSALS = {
    "row_bounds of float32": (
        dict(row_bounds=((2, 200, 2), F32)),
        "row_bounds fp32(2, 200, 2): dtype must be int32",
    ),
    "row_bounds of keys": (
        dict(row_bounds=((2, 100, 2), INT32)),
        "row_bounds int32(2, 100, 2): shape must be (2, 200, 2), (batch, seqlen_q, 2)",
    ),
    "bounds apart": (
        dict(row_bounds=((2, 2, 200), INT32)),
        "row_bounds int32(2, 2, 200): shape must be (2, 200, 2)",
    ),
    "query_ids of another batch": (
        dict(query_ids=((1, 200), INT32)),
        "query_ids int32(1, 200): shape must be (2, 200), (batch, seqlen_q)",
    ),
    "query_ids of 16 bits": (
        dict(query_ids=((2, 200), BF16)),
        "query_ids bf16(2, 200): dtype must be int32",
    ),
    "key_ids of queries": (
        dict(k=((2, 100, 4, 64), BF16), key_ids=((2, 200), INT32)),
        "key_ids int32(2, 200): shape must be (2, 100), (batch, seqlen_k)",
    ),
    "query_groups without the last": (
        dict(query_groups=((2, 3, 4), INT32)),
        "query_groups int32(2, 3, 4): shape must be (2, 4, 4), (batch, one for each 64 rows",
    ),
    "a negative softcap": (
        dict(softcap=np.float32(-1)),
        "softcap -1: must be finite, and greater than 0, or 0 for none",
    ),
    "no number as softcap": (
        dict(softcap=np.float32(np.nan)),
        "softcap nan: must be finite",
    ),
}

FORWARD_BOUNDED_REFUSALS = {
    **BOUNDS_REFUSALS,
    "q of float32": (
        dict(q=((2, 8, 4, 64), F32)),
        "q fp32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "sinks of 16 bits": (
        dict(sinks=((4,), BF16)),
        "sinks bf16(4): dtype must be fp32",
    ),
    "sinks of the key's heads": (
        dict(k=((2, 100, 2, 64), BF16), sinks=((2,), F32)),
        "sinks fp32(2): shape must be (4), one for each head of q",
    ),
    "a count of arguments": (
        dict(extra=((1,), F32)),
        "9 arguments given, 8 expected",
    ),
    "a negative scale": (
        dict(softmax_scale=np.float32(-0.5)),
        "softmax_scale -0.5: must be finite and greater than 0",
    ),
    "a variant that takes no bounds": (
        dict(variants="fwd_sm90_bf16_d64"),
        "variant fwd_sm90_bf16_d64 is a forward kernel; a bounded forward kernel is needed",
    ),
    "a variant of the backward": (
        dict(variants="bwd_sm90_bf16_d64_bounded"),
        "is a bounded backward kernel; a bounded forward kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="fwd_sm90_fp16_d64_bounded"),
        "variant fwd_sm90_fp16_d64_bounded does not take q bf16(2, 200, 4, 64)",
    ),
    "a softcap that the variant ignores": (
        dict(softcap=np.float32(20)),
        "softcap 20: variant fwd_sm90_bf16_d64_bounded caps no scores, and needs 0",
    ),
    "no softcap for a variant that caps": (
        dict(variants="fwd_sm90_bf16_d64_bounded_softcap"),
        "softcap 0: variant fwd_sm90_bf16_d64_bounded_softcap caps scores, and needs one greater",
    ),
}

BACKWARD_BOUNDED_REFUSALS = {
    **BOUNDS_REFUSALS,
    "dout of another dtype": (
        dict(dout=((2, 200, 4, 64), FP16)),
        "dout fp16(2, 200, 4, 64): dtype must be bf16",
    ),
    "key_groups of queries": (
        dict(k=((2, 100, 4, 64), BF16), key_groups=((2, 4, 2), INT32)),
        "key_groups int32(2, 4, 2): shape must be (2, 2, 2), (batch, one for each 64 rows of k, 2)",
    ),
    "key_groups of four": (
        dict(key_groups=((2, 4, 4), INT32)),
        "key_groups int32(2, 4, 4): shape must be (2, 4, 2)",
    ),
    "a count of arguments": (
        dict(extra=((1,), F32)),
        "13 arguments given, 12 expected",
    ),
    "dq_accum that is too narrow": (
        dict(dq_accum=((2, 4, 256, 32), F32)),
        "dq_accum fp32(2, 4, 256, 32): variant bwd_sm90_bf16_d64_bounded needs 64 columns",
    ),
    "a variant that takes no bounds": (
        dict(variants="bwd_sm90_bf16_d64"),
        "variant bwd_sm90_bf16_d64 is a backward kernel; a bounded backward kernel is needed",
    ),
    "a variant of the forward": (
        dict(variants="fwd_sm90_bf16_d64_bounded"),
        "is a bounded forward kernel; a bounded backward kernel is needed",
    ),
    "a softcap that the variant ignores": (
        dict(softcap=np.float32(20)),
        "softcap 20: variant bwd_sm90_bf16_d64_bounded caps no scores, and needs 0",
    ),
    "no softcap for a variant that caps": (
        dict(variants="bwd_sm90_bf16_d64_bounded_softcap"),
        "softcap 0: variant bwd_sm90_bf16_d64_bounded_softcap caps scores, and needs one greater",
    ),
}
