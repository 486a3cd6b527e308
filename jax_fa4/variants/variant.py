"""Compiled kernels and their names.

A variant is one compiled kernel. Its `name` is unique, stable and parseable; the
build, the C++ table, the FFI attributes, tests, benchmarks and error messages all
speak of kernels by it. A kernel's code depends on its variant's fields alone, and on `words`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jax_fa4.variants.words import HALF_PRECISIONS as HALF_PRECISIONS
from jax_fa4.variants.words import Arch as Arch
from jax_fa4.variants.words import DType as DType
from jax_fa4.variants.words import Form as Form


@dataclass(frozen=True, kw_only=True)
class ForwardVariant:
    """One compiled forward kernel.

    `head_dim` is the width of the tiles of Q and K, `head_dim_v` that of V and O, the same
    unless said; it serves every problem whose head dims are multiples of 8 and at most these.
    Window bounds, lengths, scale and the ratio of query to key heads are run-time arguments.

    A `bounded` one takes, in the place of window bounds, what each row may see: first and last
    key, segment ids, a sink for each head. `softcap` is one of these that also caps the scores.
    """

    arch: Arch
    dtype: DType
    head_dim: int
    head_dim_v: int = 0
    form: Form = Form.USUAL
    bounded: bool = False
    softcap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)
        _check_softcap(self)

    @property
    def name(self) -> str:
        words = ["fwd", self.arch.value, self.dtype.value, f"d{self.head_dim}"]
        if self.head_dim_v != self.head_dim:
            words.append(f"v{self.head_dim_v}")
        if self.form is not Form.USUAL:
            words.append(self.form.value)
        return "_".join([*words, *_bounded_words(self)])

    def holds(self, head_dim: int, head_dim_v: int) -> bool:
        """Whether the tiles are wide enough for these head dims."""
        return head_dim <= self.head_dim and head_dim_v <= self.head_dim_v


@dataclass(frozen=True, kw_only=True)
class BackwardVariant:
    """One compiled main kernel of the backward.

    Head dims as of `ForwardVariant`. A deterministic one adds to dQ in a fixed order, so that its
    results have the same bits in every run. Forms are the usual one, `PAIR` and `SERIAL`.
    `bounded` and `softcap` as of `ForwardVariant`.
    """

    arch: Arch
    dtype: DType
    head_dim: int
    head_dim_v: int = 0
    form: Form = Form.USUAL
    deterministic: bool = False
    bounded: bool = False
    softcap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)
        _check_softcap(self)

    @property
    def name(self) -> str:
        words = ["bwd", self.arch.value, self.dtype.value, f"d{self.head_dim}"]
        if self.head_dim_v != self.head_dim:
            words.append(f"v{self.head_dim_v}")
        if self.form is not Form.USUAL:
            words.append(self.form.value)
        if self.deterministic:
            words.append("deterministic")
        return "_".join([*words, *_bounded_words(self)])

    def holds(self, head_dim: int, head_dim_v: int) -> bool:
        """Whether the tiles are wide enough for these head dims."""
        return head_dim <= self.head_dim and head_dim_v <= self.head_dim_v


@dataclass(frozen=True, kw_only=True)
class BackwardPreprocessVariant:
    """One compiled first kernel of the backward: delta = rowsum(dO * O) - dlse, and clean scratch.

    The head dim is a run-time argument, a multiple of 8.
    """

    arch: Arch
    dtype: DType

    @property
    def name(self) -> str:
        return f"bwd_preprocess_{self.arch.value}_{self.dtype.value}"


@dataclass(frozen=True, kw_only=True)
class BackwardPostprocessVariant:
    """One compiled last kernel of the backward: dQ from its float32 sums to the output's type.

    The head dim is a run-time argument, a multiple of 8.
    """

    arch: Arch
    dtype: DType

    @property
    def name(self) -> str:
        return f"bwd_postprocess_{self.arch.value}_{self.dtype.value}"


@dataclass(frozen=True, kw_only=True)
class DecodeVariant:
    """One compiled kernel for few queries against a long, maybe paged, cache of keys and values.

    Head dims as of `ForwardVariant`. Lengths, pages, window bounds, soft cap and into how many
    parts the keys are split are run-time arguments.
    """

    arch: Arch
    dtype: DType
    head_dim: int
    head_dim_v: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def name(self) -> str:
        words = ["decode", self.arch.value, self.dtype.value, f"d{self.head_dim}"]
        if self.head_dim_v != self.head_dim:
            words.append(f"v{self.head_dim_v}")
        return "_".join(words)

    def holds(self, head_dim: int, head_dim_v: int) -> bool:
        """Whether the tiles are wide enough for these head dims."""
        return head_dim <= self.head_dim and head_dim_v <= self.head_dim_v


@dataclass(frozen=True, kw_only=True)
class DecodeCombineVariant:
    """One compiled kernel that merges the parts into which a decoding kernel split the keys.

    The head dim is a run-time argument, a multiple of 8.
    """

    arch: Arch
    dtype: DType

    @property
    def name(self) -> str:
        return f"decode_combine_{self.arch.value}_{self.dtype.value}"


def _check_softcap(variant: ForwardVariant | BackwardVariant) -> None:
    if variant.softcap and not variant.bounded:
        raise ValueError("a kernel with softcap is a bounded one")


def _bounded_words(variant: ForwardVariant | BackwardVariant) -> list[str]:
    return [word for word in ("bounded", "softcap") if getattr(variant, word)]


Variant = (
    ForwardVariant
    | BackwardVariant
    | BackwardPreprocessVariant
    | BackwardPostprocessVariant
    | DecodeVariant
    | DecodeCombineVariant
)

_FORMS = "|".join(form.value for form in Form if form.value)
_FORWARD_NAME = re.compile(
    r"fwd_([a-z0-9]+)_([a-z0-9]+)_d([0-9]+)(?:_v([0-9]+))?"
    rf"(?:_({_FORMS}))?(_bounded)?(_softcap)?"
)
_BACKWARD_NAME = re.compile(
    r"bwd_([a-z0-9]+)_([a-z0-9]+)_d([0-9]+)(?:_v([0-9]+))?"
    r"(?:_(pair|serial))?(_deterministic)?(_bounded)?(_softcap)?"
)
_DECODE_NAME = re.compile(r"decode_([a-z0-9]+)_([a-z0-9]+)_d([0-9]+)(?:_v([0-9]+))?")
_HELPER_NAME = re.compile(
    r"(bwd_preprocess|bwd_postprocess|decode_combine)_([a-z0-9]+)_([a-z0-9]+)"
)
_Helper = BackwardPreprocessVariant | BackwardPostprocessVariant | DecodeCombineVariant
_HELPERS: dict[str, type[_Helper]] = {
    "bwd_preprocess": BackwardPreprocessVariant,
    "bwd_postprocess": BackwardPostprocessVariant,
    "decode_combine": DecodeCombineVariant,
}


def parse(name: str) -> Variant:
    """The variant that `name` names; ValueError if it names none."""
    try:
        variant = _read(name)
    except ValueError:
        variant = None
    if variant is None or variant.name != name:
        raise ValueError(f"{name!r} is not the name of a kernel variant")
    return variant


def _read(name: str) -> Variant | None:
    """The variant of a name, if it is one at all; ValueError for words that mean nothing."""
    if forward := _FORWARD_NAME.fullmatch(name):
        arch, dtype, head_dim, head_dim_v, form, *bounded = forward.groups(default="")
        return ForwardVariant(
            arch=Arch(arch),
            dtype=DType(dtype),
            head_dim=int(head_dim),
            head_dim_v=int(head_dim_v or 0),
            form=Form(form),
            bounded=bool(bounded[0]),
            softcap=bool(bounded[1]),
        )
    if backward := _BACKWARD_NAME.fullmatch(name):
        arch, dtype, head_dim, head_dim_v, form, *flags = backward.groups(default="")
        return BackwardVariant(
            arch=Arch(arch),
            dtype=DType(dtype),
            head_dim=int(head_dim),
            head_dim_v=int(head_dim_v or 0),
            form=Form(form),
            deterministic=bool(flags[0]),
            bounded=bool(flags[1]),
            softcap=bool(flags[2]),
        )
    if helper := _HELPER_NAME.fullmatch(name):
        step, arch, dtype = helper.groups()
        return _HELPERS[step](arch=Arch(arch), dtype=DType(dtype))
    if decode := _DECODE_NAME.fullmatch(name):
        arch, dtype, head_dim, head_dim_v = decode.groups(default="")
        return DecodeVariant(
            arch=Arch(arch),
            dtype=DType(dtype),
            head_dim=int(head_dim),
            head_dim_v=int(head_dim_v or 0),
        )
    return None
