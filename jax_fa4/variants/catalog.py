"""THE table of kernels that a build contains."""

from __future__ import annotations

from jax_fa4.variants.variant import Arch, BackwardPreprocessVariant, DType, ForwardVariant, Variant

# Head dims with a kernel of their own; a problem runs on the narrowest that holds it.
FORWARD_HEAD_DIMS: dict[Arch, tuple[int, ...]] = {
    Arch.SM90: (64, 128, 256),
    Arch.SM100: (64, 128, 256),
}

WIDEST_HEAD_DIM = max(max(head_dims) for head_dims in FORWARD_HEAD_DIMS.values())

CATALOG: tuple[Variant, ...] = (
    *(
        ForwardVariant(arch=arch, dtype=dtype, head_dim=head_dim)
        for arch, head_dims in FORWARD_HEAD_DIMS.items()
        for dtype in DType
        for head_dim in head_dims
    ),
    *(BackwardPreprocessVariant(arch=arch, dtype=dtype) for arch in Arch for dtype in DType),
)
