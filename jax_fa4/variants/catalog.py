"""THE table of kernels that a build contains."""

from __future__ import annotations

from jax_fa4.variants.variant import (
    HALF_PRECISIONS,
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

# Head dims of (Q and K, V) with a kernel of their own; a problem runs on the narrowest that
# holds it.
FORWARD_HEAD_DIMS: dict[Arch, tuple[tuple[int, int], ...]] = {
    Arch.SM90: ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256)),
    Arch.SM100: ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256)),
}

# The same for 8-bit elements.
FP8_HEAD_DIMS: dict[Arch, tuple[tuple[int, int], ...]] = {
    Arch.SM100: ((64, 64), (128, 128)),
}

# Further forms of kernels, beside the usual one: head dims as above, in both precisions.
FURTHER_FORMS: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]] = {
    (Arch.SM100, Form.PAIR): ((128, 128), (256, 256)),
    (Arch.SM100, Form.SPLITKEYS): ((64, 64), (128, 128)),
    (Arch.SM100, Form.DYNAMIC): ((64, 64), (96, 96), (128, 128), (192, 128)),
}

# Likewise of the backward's main kernel in all its forms, and the deterministic ones.
BACKWARD_FORMS: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]] = {
    (Arch.SM90, Form.USUAL): ((64, 64), (96, 96), (128, 128)),
    (Arch.SM90, Form.PAIR): ((64, 64), (128, 128), (192, 128), (256, 256)),
    (Arch.SM90, Form.SERIAL): ((64, 64), (128, 128)),
    (Arch.SM100, Form.USUAL): ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256)),
    (Arch.SM100, Form.PAIR): ((128, 128),),
}
DETERMINISTIC_FORMS: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]] = {
    (Arch.SM90, Form.USUAL): ((64, 64), (96, 96), (128, 128)),
    (Arch.SM90, Form.PAIR): ((128, 128), (192, 128), (256, 256)),
    (Arch.SM100, Form.USUAL): ((64, 64), (96, 96), (128, 128)),
    (Arch.SM100, Form.PAIR): ((128, 128),),
}


# Kernels that take what each row may see, and sinks; those that also cap the scores. Usual form.
BOUNDED_HEAD_DIMS: dict[Arch, tuple[tuple[int, int], ...]] = {
    Arch.SM90: ((64, 64), (128, 128), (192, 128), (256, 256)),
    Arch.SM100: ((64, 64), (128, 128), (192, 128), (256, 256)),
}
SOFTCAP_HEAD_DIMS: dict[Arch, tuple[tuple[int, int], ...]] = {
    Arch.SM90: ((64, 64), (128, 128), (256, 256)),
    Arch.SM100: ((64, 64), (128, 128), (256, 256)),
}

# The same of the backward's main kernel. None is a deterministic twin.
BOUNDED_BACKWARD_FORMS: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]] = {
    (Arch.SM90, Form.USUAL): ((64, 64), (128, 128)),
    (Arch.SM90, Form.PAIR): ((192, 128), (256, 256)),
    (Arch.SM100, Form.USUAL): ((64, 64), (128, 128), (192, 128), (256, 256)),
}
SOFTCAP_BACKWARD_FORMS: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]] = {
    (Arch.SM90, Form.USUAL): ((64, 64), (128, 128)),
    (Arch.SM90, Form.PAIR): ((256, 256),),
    (Arch.SM100, Form.USUAL): ((64, 64), (128, 128), (256, 256)),
}

# Of decoding: kernels for every architecture alike.
DECODE_HEAD_DIMS: tuple[tuple[int, int], ...] = ((64, 64), (128, 128))


# Kernels with the same bits in every run as they are, which have no deterministic twin.
ALWAYS_DETERMINISTIC: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]] = {
    (Arch.SM90, Form.SERIAL): BACKWARD_FORMS[Arch.SM90, Form.SERIAL],
    (Arch.SM100, Form.USUAL): ((192, 128), (256, 256)),
}


def _of_any_form(
    table: dict[tuple[Arch, Form], tuple[tuple[int, int], ...]],
) -> dict[Arch, tuple[tuple[int, int], ...]]:
    found: dict[Arch, set[tuple[int, int]]] = {}
    for (arch, _), pairs in table.items():
        found.setdefault(arch, set()).update(pairs)
    return {arch: tuple(sorted(pairs)) for arch, pairs in found.items()}


BACKWARD_HEAD_DIMS = _of_any_form(BACKWARD_FORMS)
DETERMINISTIC_HEAD_DIMS = _of_any_form(DETERMINISTIC_FORMS)


def is_deterministic(variant: BackwardVariant) -> bool:
    """Whether its results have the same bits in every run."""
    always = ALWAYS_DETERMINISTIC.get((variant.arch, variant.form), ())
    return variant.deterministic or (variant.head_dim, variant.head_dim_v) in always


def widest_head_dim(dtype: DType) -> int:
    """Some kernel of every architecture that has any holds every pair of head dims up to this."""
    table = FP8_HEAD_DIMS if dtype is DType.E4M3 else FORWARD_HEAD_DIMS
    return min(max(min(pair) for pair in pairs) for pairs in table.values())


CATALOG: tuple[Variant, ...] = (
    *(
        ForwardVariant(arch=arch, dtype=dtype, head_dim=head_dim, head_dim_v=head_dim_v)
        for arch, pairs in FORWARD_HEAD_DIMS.items()
        for dtype in HALF_PRECISIONS
        for head_dim, head_dim_v in pairs
    ),
    *(
        ForwardVariant(arch=arch, dtype=DType.E4M3, head_dim=head_dim, head_dim_v=head_dim_v)
        for arch, pairs in FP8_HEAD_DIMS.items()
        for head_dim, head_dim_v in pairs
    ),
    *(
        ForwardVariant(arch=arch, dtype=dtype, head_dim=d, head_dim_v=d_v, form=form)
        for (arch, form), pairs in FURTHER_FORMS.items()
        for dtype in HALF_PRECISIONS
        for d, d_v in pairs
    ),
    *(
        BackwardVariant(
            arch=arch, dtype=dtype, head_dim=d, head_dim_v=d_v, form=form, deterministic=fixed
        )
        for fixed, table in ((False, BACKWARD_FORMS), (True, DETERMINISTIC_FORMS))
        for (arch, form), pairs in table.items()
        for dtype in HALF_PRECISIONS
        for d, d_v in pairs
    ),
    *(
        ForwardVariant(
            arch=arch, dtype=dtype, head_dim=d, head_dim_v=d_v, bounded=True, softcap=softcap
        )
        for softcap, table in ((False, BOUNDED_HEAD_DIMS), (True, SOFTCAP_HEAD_DIMS))
        for arch, pairs in table.items()
        for dtype in HALF_PRECISIONS
        for d, d_v in pairs
    ),
    *(
        BackwardVariant(
            arch=arch,
            dtype=dtype,
            head_dim=d,
            head_dim_v=d_v,
            form=form,
            bounded=True,
            softcap=softcap,
        )
        for softcap, table in ((False, BOUNDED_BACKWARD_FORMS), (True, SOFTCAP_BACKWARD_FORMS))
        for (arch, form), pairs in table.items()
        for dtype in HALF_PRECISIONS
        for d, d_v in pairs
    ),
    *(
        BackwardPreprocessVariant(arch=arch, dtype=dtype)
        for arch in Arch
        for dtype in HALF_PRECISIONS
    ),
    *(
        BackwardPostprocessVariant(arch=arch, dtype=dtype)
        for arch in BACKWARD_HEAD_DIMS
        for dtype in HALF_PRECISIONS
    ),
    *(
        DecodeVariant(arch=arch, dtype=dtype, head_dim=d, head_dim_v=d_v)
        for arch in Arch
        for dtype in HALF_PRECISIONS
        for d, d_v in DECODE_HEAD_DIMS
    ),
    *(DecodeCombineVariant(arch=arch, dtype=dtype) for arch in Arch for dtype in HALF_PRECISIONS),
)
