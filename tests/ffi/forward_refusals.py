"""What the forward targets refuse: what it is -> (changes of a right call, words)."""

import jax.numpy as jnp
import numpy as np
from bad_calls import BF16, E4M3, F32, FP16

from jax_fa4 import _ext

FORWARD_REFUSALS = {
    "q of float32": (
        dict(q=((2, 8, 4, 64), F32)),
        "q fp32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "k of another dtype": (
        dict(k=((2, 8, 4, 64), FP16)),
        "k fp16(2, 8, 4, 64): dtype must be bf16",
    ),
    "v of another dtype": (
        dict(v=((2, 8, 4, 64), FP16)),
        "v fp16(2, 8, 4, 64): dtype must be bf16",
    ),
    "out of another dtype": (
        dict(out=((2, 8, 4, 64), F32)),
        "out fp32(2, 8, 4, 64): dtype must be bf16",
    ),
    "lse of half precision": (
        dict(lse=((2, 4, 8), BF16)),
        "lse bf16(2, 4, 8): dtype must be fp32",
    ),
    "a q of 8 bits": (
        dict(q=((2, 8, 4, 64), E4M3)),
        "q e4m3(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "an integer q": (
        dict(q=((2, 8, 4, 64), jnp.int32)),
        "q int32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "q of rank 3": (
        dict(q=((2, 8, 64), BF16), lse=((2, 8), F32)),
        "q bf16(2, 8, 64): rank must be 4, (batch, seqlen, heads, head_dim)",
    ),
    "k of rank 5": (
        dict(k=((2, 8, 4, 64, 1), BF16)),
        "k bf16(2, 8, 4, 64, 1): rank must be 4, (batch, seqlen, heads, head_dim)",
    ),
    "no keys": (
        dict(k=((2, 0, 4, 64), BF16)),
        "k bf16(2, 0, 4, 64): every dimension must be from 1 to 2147483647",
    ),
    "a head_dim that is no multiple of 8": (
        dict(q=((2, 8, 4, 60), BF16)),
        "head_dim 60 is not a multiple of 8; pad it with zeros",
    ),
    "k of another batch": (
        dict(k=((3, 8, 4, 64), BF16)),
        "k bf16(3, 8, 4, 64): shape must be (2, 8, 4, 64), batch and head_dim as in q",
    ),
    "k of another head_dim": (
        dict(k=((2, 8, 4, 32), BF16)),
        "k bf16(2, 8, 4, 32): shape must be (2, 8, 4, 64), batch and head_dim as in q",
    ),
    "v of rank 3": (
        dict(v=((2, 8, 4), BF16)),
        "v bf16(2, 8, 4): rank must be 4, (batch, seqlen, heads, head_dim)",
    ),
    "a head_dim of v that is no multiple of 8": (
        dict(v=((2, 8, 4, 36), BF16)),
        "head_dim_v 36 is not a multiple of 8; pad it with zeros",
    ),
    "v unlike k": (
        dict(v=((2, 9, 4, 32), BF16)),
        "v bf16(2, 9, 4, 32): shape must be (2, 8, 4, 32), the same as k but for head_dim",
    ),
    "out without the head_dim of v": (
        dict(v=((2, 8, 4, 32), BF16)),
        "out bf16(2, 8, 4, 64): shape must be (2, 8, 4, 32), the same as q with the head_dim of v",
    ),
    "out unlike q": (
        dict(out=((2, 8, 2, 64), BF16)),
        "out bf16(2, 8, 2, 64): shape must be (2, 8, 4, 64), the same as q with the head_dim of v",
    ),
    "lse in the order of q": (
        dict(lse=((2, 8, 4), F32)),
        "lse fp32(2, 8, 4): shape must be (2, 4, 8), (batch, heads_q, seqlen_q)",
    ),
    "heads that do not divide": (
        dict(k=((2, 8, 3, 64), BF16)),
        "q bf16(2, 8, 4, 64), k bf16(2, 8, 3, 64): the 3 heads of k must divide the 4 heads of q",
    ),
    "an infinite scale": (
        dict(softmax_scale=np.float32(np.inf)),
        "softmax_scale inf: must be finite and greater than 0",
    ),
    "a negative scale": (
        dict(softmax_scale=np.float32(-0.5)),
        "softmax_scale -0.5: must be finite and greater than 0",
    ),
    "an empty band": (
        dict(band_lower=np.int32(1), band_upper=np.int32(0)),
        "band_lower 1, band_upper 0: must satisfy -2**30 <= band_lower <= band_upper <= 2**30",
    ),
    "a band beyond the unbounded": (
        dict(band_upper=np.int32(2**30 + 1)),
        "band_lower -1073741824, band_upper 1073741825: must satisfy",
    ),
    "no variant": (
        dict(variants=" "),
        'variants=" " names no kernel; this build has: ' + " ".join(_ext.variant_names()),
    ),
    "an unknown variant": (
        dict(variants="fwd_sm90_bf16_d64 fwd_sm75_bf16_d64"),
        "variant fwd_sm75_bf16_d64 is not in this build, which has: "
        + " ".join(_ext.variant_names()),
    ),
    "a variant of another operation": (
        dict(variants="bwd_preprocess_sm90_bf16"),
        "variant bwd_preprocess_sm90_bf16 is a backward preprocess kernel; "
        "a forward kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="fwd_sm90_fp16_d64"),
        "variant fwd_sm90_fp16_d64 does not take q bf16(2, 8, 4, 64)",
    ),
    "a variant that is too narrow": (
        dict(q=((2, 8, 4, 72), BF16)),
        "variant fwd_sm90_bf16_d64 takes head_dim up to 64, not q bf16(2, 8, 4, 72)",
    ),
    "a variant that is too narrow for v": (
        dict(v=((2, 8, 4, 72), BF16), out=((2, 8, 4, 72), BF16)),
        "variant fwd_sm90_bf16_d64 takes head_dim up to 64 of v, not v bf16(2, 8, 4, 72)",
    ),
}

FP8_REFUSALS = {
    "q of 16 bits": (
        dict(q=((2, 8, 4, 64), BF16)),
        "q bf16(2, 8, 4, 64): dtype must be e4m3",
    ),
    "v of 16 bits": (
        dict(v=((2, 8, 4, 64), BF16)),
        "v bf16(2, 8, 4, 64): dtype must be e4m3",
    ),
    "out of 8 bits": (
        dict(out=((2, 8, 4, 64), E4M3)),
        "out e4m3(2, 8, 4, 64): dtype must be bf16",
    ),
    "a head_dim that is no multiple of 16": (
        dict(q=((2, 8, 4, 56), E4M3)),
        "head_dim 56 is not a multiple of 16; pad it with zeros",
    ),
    "a head_dim of v that is no multiple of 16": (
        dict(v=((2, 8, 4, 24), E4M3)),
        "head_dim_v 24 is not a multiple of 16; pad it with zeros",
    ),
    "descales of the query heads": (
        dict(k=((2, 8, 2, 64), E4M3), descales=((2, 4), F32)),
        "q_descale fp32(2, 4): shape must be (2, 2), (batch, heads of k)",
    ),
    "descales of 16 bits": (
        dict(descales=((2, 4), BF16)),
        "q_descale bf16(2, 4): dtype must be fp32",
    ),
    "a scale of 0": (
        dict(softmax_scale=np.float32(0)),
        "softmax_scale 0: must be finite and greater than 0",
    ),
    "a variant of another dtype": (
        dict(variants="fwd_sm100_bf16_d64"),
        "variant fwd_sm100_bf16_d64 does not take q e4m3(2, 8, 4, 64)",
    ),
    "a variant that is too narrow": (
        dict(q=((2, 8, 4, 80), E4M3)),
        "variant fwd_sm100_e4m3_d64 takes head_dim up to 64, not q e4m3(2, 8, 4, 80)",
    ),
}
