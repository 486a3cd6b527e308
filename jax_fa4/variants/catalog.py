"""THE table of kernels that a build contains."""

from __future__ import annotations

from jax_fa4.variants.variant import Arch, BackwardPreprocessVariant, DType, ForwardVariant, Variant

# Head dims with a kernel of their own; a problem runs on the narrowest that holds it.
FORWARD_HEAD_DIMS: tuple[int, ...] = (64, 128, 256)

CATALOG: tuple[Variant, ...] = (
    *(
        ForwardVariant(arch=Arch.SM90, dtype=dtype, head_dim=head_dim)
        for dtype in DType
        for head_dim in FORWARD_HEAD_DIMS
    ),
    *(BackwardPreprocessVariant(arch=arch, dtype=dtype) for arch in Arch for dtype in DType),
)
