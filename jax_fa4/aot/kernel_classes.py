"""Where each variant's kernel class is, "module:Class". It is called with the variant.

A variant's fingerprint covers its own answer, not this file: a further kernel rebuilds no other.
"""

from __future__ import annotations

import re

from jax_fa4.variants.variant import (
    Arch,
    BackwardPostprocessVariant,
    BackwardPreprocessVariant,
    BackwardVariant,
    DecodeCombineVariant,
    DecodeVariant,
    DType,
    Form,
    ForwardVariant,
    Variant,
)

FORWARD_KERNELS = {
    Arch.SM90: "jax_fa4.kernels.sm90.forward.kernel:ForwardSm90",
    Arch.SM100: "jax_fa4.kernels.sm100.forward.kernel:ForwardSm100",
}
FORWARD_FP8_KERNEL = "jax_fa4.kernels.sm100.forward.kernel_fp8:ForwardFp8Sm100"
BACKWARD_KERNELS = {
    (Arch.SM90, Form.USUAL): "jax_fa4.kernels.sm90.backward.kernel:BackwardSm90",
    (Arch.SM90, Form.PAIR): "jax_fa4.kernels.sm90.backward_pair.kernel:BackwardPairSm90",
    (Arch.SM90, Form.SERIAL): "jax_fa4.kernels.sm90.backward_serial.kernel:BackwardSerialSm90",
    (Arch.SM100, Form.USUAL): "jax_fa4.kernels.sm100.backward.kernel:BackwardSm100",
    (Arch.SM100, Form.PAIR): "jax_fa4.kernels.sm100.backward_pair.kernel:BackwardPairSm100",
}
BACKWARD_WIDE_KERNEL = "jax_fa4.kernels.sm100.backward_wide.kernel:BackwardWideSm100"
BACKWARD_NARROW_PAIR_KERNEL = (
    "jax_fa4.kernels.sm90.backward_pair_narrow.kernel:BackwardPairNarrowSm90"
)
BACKWARD_PREPROCESS_KERNEL = "jax_fa4.kernels.common.backward_preprocess:BackwardPreprocess"
BACKWARD_POSTPROCESS_KERNEL = "jax_fa4.kernels.common.backward_postprocess:BackwardPostprocess"
DECODE_KERNEL = "jax_fa4.kernels.common.decode.kernel:Decode"
DECODE_COMBINE_KERNEL = "jax_fa4.kernels.common.decode.combine:DecodeCombine"


def kernel_class_path(variant: Variant) -> str:
    """The class of one variant; of a bounded one, beside that of its twin that is not."""
    path = _unbounded_class_path(variant)
    if isinstance(variant, ForwardVariant | BackwardVariant) and variant.bounded:
        return re.sub(r"kernel:(\w+)(Sm\d+)", r"kernel_bounded:\1Bounded\2", path)
    return path


def _unbounded_class_path(variant: Variant) -> str:
    match variant:
        case ForwardVariant(dtype=DType.E4M3):
            return FORWARD_FP8_KERNEL
        case ForwardVariant():
            return FORWARD_KERNELS[variant.arch]
        case BackwardPreprocessVariant():
            return BACKWARD_PREPROCESS_KERNEL
        case BackwardVariant(arch=Arch.SM100, form=Form.USUAL) if variant.head_dim > 128:
            return BACKWARD_WIDE_KERNEL
        case BackwardVariant(arch=Arch.SM90, form=Form.PAIR, head_dim=64 | 128):
            return BACKWARD_NARROW_PAIR_KERNEL
        case BackwardVariant():
            return BACKWARD_KERNELS[variant.arch, variant.form]
        case BackwardPostprocessVariant():
            return BACKWARD_POSTPROCESS_KERNEL
        case DecodeVariant():
            return DECODE_KERNEL
        case DecodeCombineVariant():
            return DECODE_COMBINE_KERNEL
