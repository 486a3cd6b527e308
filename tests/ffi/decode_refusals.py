"""What the decode target refuses: what it is -> (changes, words)."""

import jax.numpy as jnp
import numpy as np
from bad_calls import BF16, F32, FP16

INT32 = jnp.int32
NOTHING = "every dimension must be from 1 to 2147483647"

DECODE_REFUSALS = {
    "q of float32": (dict(q=((2, 1, 4, 64), F32)), "q fp32(2, 1, 4, 64)"),
    "keys of another dtype": (dict(k=((8, 64, 2, 64), FP16)), "fp16(8, 64, 2, 64)"),
    "keys of another head dim": (
        dict(k=((8, 64, 2, 32), BF16)),
        "bf16(8, 64, 2, 32): shape must be",
    ),
    "values of other pages": (dict(v=((7, 64, 2, 64), BF16)), "bf16(7, 64, 2, 64): shape must be"),
    "heads that keys do not divide": (
        dict(k=((8, 64, 3, 64), BF16)),
        "heads of q must be a multiple of those of k",
    ),
    "no heads of keys": (dict(k=((8, 64, 0, 64), BF16)), NOTHING),
    "no pages of a sequence": (dict(page_table=((2, 0), INT32)), NOTHING),
    "pages of odd size": (dict(k=((8, 60, 2, 64), BF16)), "page_size 60 is not a multiple of"),
    "a table of another batch": (
        dict(page_table=((3, 3), INT32)),
        "page_table int32(3, 3): shape must be (2, 3)",
    ),
    "a table of floats": (
        dict(page_table=((2, 3), F32)),
        "page_table fp32(2, 3): dtype must be int32",
    ),
    "lengths of another batch": (
        dict(lengths=((3,), INT32)),
        "lengths int32(3): shape must be (2)",
    ),
    "sinks of the keys' heads": (dict(sinks=((2,), F32)), "sinks fp32(2): shape must be (4)"),
    "parts that differ": (
        dict(out_partial=((3, 2, 4, 1, 64), F32)),
        "out_partial fp32(3, 2, 4, 1, 64): shape must be (2, 2, 4, 1, 64)",
    ),
    "a negative softcap": (
        dict(softcap=np.float32(-1)),
        "softcap -1 must be finite and at least 0",
    ),
    "no number as softcap": (dict(softcap=np.float32(np.nan)), "softcap nan must be finite"),
}
