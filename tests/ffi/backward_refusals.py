"""What the backward targets refuse: what it is -> (changes of a right call, words)."""

import jax.numpy as jnp
import numpy as np
from bad_calls import BF16, F32, FP16

from jax_fa4 import _ext

PADDED = "(batch, heads_q, seqlen_q rounded up to 128)"

SCRATCH_REFUSALS = {
    "delta without padding": (
        dict(delta=((2, 4, 8), F32)),
        f"delta fp32(2, 4, 8): shape must be (2, 4, 128), {PADDED}",
    ),
    "lse_log2 without padding": (
        dict(lse_log2=((2, 4, 8), F32)),
        f"lse_log2 fp32(2, 4, 8): shape must be (2, 4, 128), {PADDED}",
    ),
    "dq_accum of half precision": (
        dict(dq_accum=((2, 4, 128, 64), BF16)),
        "dq_accum bf16(2, 4, 128, 64): dtype must be fp32",
    ),
    "dq_accum in the order of out": (
        dict(dq_accum=((2, 128, 4, 64), F32)),
        "dq_accum fp32(2, 128, 4, 64): shape must be (2, 4, 128, 64), the rows of delta",
    ),
    "too few semaphores": (
        dict(semaphores=((2, 4, 1), jnp.int32)),
        "semaphores int32(2, 4, 1): shape must be (2, 4, 2), one for each 64 rows of delta",
    ),
    "semaphores of float32": (
        dict(semaphores=((2, 4, 2), F32)),
        "semaphores fp32(2, 4, 2): dtype must be int32",
    ),
}

PREPROCESS_REFUSALS = {
    "out of float32": (
        dict(out=((2, 8, 4, 64), F32)),
        "out fp32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "dout of another dtype": (
        dict(dout=((2, 8, 4, 64), FP16)),
        "dout fp16(2, 8, 4, 64): dtype must be bf16",
    ),
    "nothing to sum": (
        dict(out=((2, 8, 4, 0), BF16)),
        "out bf16(2, 8, 4, 0): every dimension must be from 1 to 2147483647",
    ),
    "a head_dim that is no multiple of 8": (
        dict(out=((2, 8, 4, 12), BF16)),
        "head_dim 12 is not a multiple of 8; pad it with zeros",
    ),
    "dout unlike out": (
        dict(dout=((2, 8, 4, 32), BF16)),
        "dout bf16(2, 8, 4, 32): shape must be (2, 8, 4, 64), the same as out",
    ),
    "a count of arguments": (
        dict(extra=((1,), F32)),
        "5 arguments given, 4 expected",
    ),
    "lse of half precision": (
        dict(lse=((2, 4, 8), BF16)),
        "lse bf16(2, 4, 8): dtype must be fp32",
    ),
    "dlse of half precision": (
        dict(dlse=((2, 4, 8), BF16)),
        "dlse bf16(2, 4, 8): dtype must be fp32",
    ),
    "dlse in the order of out": (
        dict(dlse=((2, 8, 4), F32)),
        "dlse fp32(2, 8, 4): shape must be (2, 4, 8), (batch, heads_q, seqlen_q)",
    ),
    **SCRATCH_REFUSALS,
    "an unknown variant": (
        dict(variants="bwd_preprocess_sm75_bf16"),
        "variant bwd_preprocess_sm75_bf16 is not in this build",
    ),
    "a variant of another operation": (
        dict(variants="fwd_sm90_bf16_d64"),
        "variant fwd_sm90_bf16_d64 is a forward kernel; a backward preprocess kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="bwd_preprocess_sm90_fp16"),
        "variant bwd_preprocess_sm90_fp16 does not take out bf16(2, 8, 4, 64)",
    ),
}


BACKWARD_REFUSALS = {
    "q of float32": (
        dict(q=((2, 200, 4, 64), F32)),
        "q fp32(2, 200, 4, 64): dtype must be bf16 or fp16",
    ),
    "out of another dtype": (
        dict(out=((2, 200, 4, 64), FP16)),
        "out fp16(2, 200, 4, 64): dtype must be bf16",
    ),
    "dout of another dtype": (
        dict(dout=((2, 200, 4, 64), F32)),
        "dout fp32(2, 200, 4, 64): dtype must be bf16",
    ),
    "no keys": (
        dict(k=((2, 0, 4, 64), BF16)),
        "k bf16(2, 0, 4, 64): every dimension must be from 1 to 2147483647",
    ),
    "heads that do not divide": (
        dict(k=((2, 200, 3, 64), BF16)),
        "q bf16(2, 200, 4, 64), k bf16(2, 200, 3, 64): the 3 heads of k must divide the 4 heads",
    ),
    "out without the head_dim of v": (
        dict(v=((2, 200, 4, 32), BF16)),
        "out bf16(2, 200, 4, 64): shape must be (2, 200, 4, 32), the same as q with the head_dim",
    ),
    "dout unlike out": (
        dict(dout=((2, 200, 4, 32), BF16)),
        "dout bf16(2, 200, 4, 32): shape must be (2, 200, 4, 64), the same as out",
    ),
    "lse in the order of q": (
        dict(lse=((2, 200, 4), F32)),
        "lse fp32(2, 200, 4): shape must be (2, 4, 200), (batch, heads_q, seqlen_q)",
    ),
    "dlse of half precision": (
        dict(dlse=((2, 4, 200), BF16)),
        "dlse bf16(2, 4, 200): dtype must be fp32",
    ),
    "dq in float32": (
        dict(dq=((2, 200, 4, 64), F32)),
        "dq fp32(2, 200, 4, 64): dtype must be bf16",
    ),
    "dq unlike q": (
        dict(dq=((2, 256, 4, 64), BF16)),
        "dq bf16(2, 256, 4, 64): shape must be (2, 200, 4, 64), the same as q",
    ),
    "dk expanded to the heads of q": (
        dict(k=((2, 200, 2, 64), BF16), dk=((2, 200, 4, 64), BF16)),
        "dk bf16(2, 200, 4, 64): shape must be (2, 200, 2, 64), the same as k",
    ),
    "dv unlike v": (
        dict(dv=((2, 200, 4, 72), BF16)),
        "dv bf16(2, 200, 4, 72): shape must be (2, 200, 4, 64), the same as v",
    ),
    "delta without padding": (
        dict(delta=((2, 4, 200), F32)),
        f"delta fp32(2, 4, 200): shape must be (2, 4, 256), {PADDED}",
    ),
    "dq_accum that is too narrow": (
        dict(dq_accum=((2, 4, 256, 32), F32)),
        "dq_accum fp32(2, 4, 256, 32): variant bwd_sm90_bf16_d64 needs 64 columns",
    ),
    "a count of arguments": (
        dict(extra=((1,), F32)),
        "8 arguments given, 7 expected",
    ),
    "a negative scale": (
        dict(softmax_scale=np.float32(-0.5)),
        "softmax_scale -0.5: must be finite and greater than 0",
    ),
    "an empty band": (
        dict(band_lower=np.int32(1), band_upper=np.int32(0)),
        "band_lower 1, band_upper 0: must satisfy -2**30 <= band_lower <= band_upper <= 2**30",
    ),
    "no variant": (
        dict(variants=""),
        'variants="" names no kernel; this build has: ' + " ".join(_ext.variant_names()),
    ),
    "a variant of another operation": (
        dict(variants="fwd_sm90_bf16_d64"),
        "variant fwd_sm90_bf16_d64 is a forward kernel; a backward kernel is needed",
    ),
    "a helper": (
        dict(variants="bwd_postprocess_sm90_bf16"),
        "variant bwd_postprocess_sm90_bf16 is a backward postprocess kernel; "
        "a backward kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="bwd_sm90_fp16_d64"),
        "variant bwd_sm90_fp16_d64 does not take q bf16(2, 200, 4, 64)",
    ),
    "a variant that is too narrow": (
        dict(q=((2, 200, 4, 72), BF16)),
        "variant bwd_sm90_bf16_d64 takes head_dim up to 64, not q bf16(2, 200, 4, 72)",
    ),
}
