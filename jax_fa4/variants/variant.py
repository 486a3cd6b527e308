"""The words that name compiled kernels.

A variant is one compiled kernel. Its `name` is unique, stable and parseable; the
build, the C++ table, the FFI attributes, tests, benchmarks and error messages all
speak of kernels by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Arch(Enum):
    """A GPU family, by the name that variants carry."""

    SM90 = "sm90"
    SM100 = "sm100"

    @property
    def target(self) -> str:
        """The compiler's target: sm_100f is the family one, for B200 and B300 alike."""
        return {Arch.SM90: "sm_90a", Arch.SM100: "sm_100f"}[self]

    @property
    def compute_capability_major(self) -> int:
        """Major compute capability of the devices that run this family's kernels."""
        return {Arch.SM90: 9, Arch.SM100: 10}[self]

    @property
    def cuda_major(self) -> int:
        """Major version of the CUDA toolkit that assembles the kernels; drivers may not be older.

        The oldest that serves the architecture well. 12.9 makes operands of Blackwell's products
        uniform by loops over lanes: 927 instructions a block of keys in the warp that issues
        them, where 13.4 needs 309.
        """
        return {Arch.SM90: 12, Arch.SM100: 13}[self]


class DType(Enum):
    """Element type of query, key and value."""

    BF16 = "bf16"
    FP16 = "fp16"
    E4M3 = "e4m3"  # forward only, with a descale for every batch element and KV head

    @property
    def output(self) -> DType:
        """Element type of the output."""
        return DType.BF16 if self is DType.E4M3 else self

    @property
    def bits(self) -> int:
        return 8 if self is DType.E4M3 else 16


HALF_PRECISIONS = (DType.BF16, DType.FP16)


class Form(Enum):
    """How a kernel is built, by the suffix of its name: the usual way has none.

    Every form serves every problem; which is fastest is a matter of choosing.
    """

    USUAL = ""  # on Blackwell, a CTA has two tiles of queries, or one where two do not fit
    PAIR = "pair"  # two CTAs work together: forward, each with half of K and V; backward, of dS
    DYNAMIC = "dynamic"  # two tiles of queries; a CTA that is done claims another's, not started
    SPLITKEYS = "splitkeys"  # one tile of queries, its keys dealt to two softmax warpgroups
    SERIAL = "serial"  # backward: a CTA does all keys of a head, one block after the other


@dataclass(frozen=True, kw_only=True)
class ForwardVariant:
    """One compiled forward kernel.

    `head_dim` is the width of the tiles of Q and K, `head_dim_v` that of V and O, the same
    unless said; it serves every problem whose head dims are multiples of 8 and at most these.
    Window bounds, lengths, scale and the ratio of query to key heads are run-time arguments.
    """

    arch: Arch
    dtype: DType
    head_dim: int
    head_dim_v: int = 0
    form: Form = Form.USUAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def name(self) -> str:
        words = ["fwd", self.arch.value, self.dtype.value, f"d{self.head_dim}"]
        if self.head_dim_v != self.head_dim:
            words.append(f"v{self.head_dim_v}")
        if self.form is not Form.USUAL:
            words.append(self.form.value)
        return "_".join(words)

    def holds(self, head_dim: int, head_dim_v: int) -> bool:
        """Whether the tiles are wide enough for these head dims."""
        return head_dim <= self.head_dim and head_dim_v <= self.head_dim_v


@dataclass(frozen=True, kw_only=True)
class BackwardVariant:
    """One compiled main kernel of the backward.

    Head dims as of `ForwardVariant`. A deterministic one adds to dQ in a fixed order, so that its
    results have the same bits in every run. Forms are the usual one, `PAIR` and `SERIAL`.
    """

    arch: Arch
    dtype: DType
    head_dim: int
    head_dim_v: int = 0
    form: Form = Form.USUAL
    deterministic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def name(self) -> str:
        words = ["bwd", self.arch.value, self.dtype.value, f"d{self.head_dim}"]
        if self.head_dim_v != self.head_dim:
            words.append(f"v{self.head_dim_v}")
        if self.form is not Form.USUAL:
            words.append(self.form.value)
        if self.deterministic:
            words.append("deterministic")
        return "_".join(words)

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


Variant = ForwardVariant | BackwardVariant | BackwardPreprocessVariant | BackwardPostprocessVariant

_FORWARD_NAME = re.compile(r"fwd_([a-z0-9]+)_([a-z0-9]+)_d([0-9]+)(?:_v([0-9]+))?(?:_([a-z]+))?")

_BACKWARD_NAME = re.compile(
    r"bwd_([a-z0-9]+)_([a-z0-9]+)_d([0-9]+)(?:_v([0-9]+))?"
    r"(?:_(pair|serial))?(_deterministic)?"
)
_HELPER_NAME = re.compile(r"bwd_(preprocess|postprocess)_([a-z0-9]+)_([a-z0-9]+)")


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
        arch, dtype, head_dim, head_dim_v, form = forward.groups(default="")
        return ForwardVariant(
            arch=Arch(arch),
            dtype=DType(dtype),
            head_dim=int(head_dim),
            head_dim_v=int(head_dim_v or 0),
            form=Form(form),
        )
    if backward := _BACKWARD_NAME.fullmatch(name):
        arch, dtype, head_dim, head_dim_v, form, deterministic = backward.groups(default="")
        return BackwardVariant(
            arch=Arch(arch),
            dtype=DType(dtype),
            head_dim=int(head_dim),
            head_dim_v=int(head_dim_v or 0),
            form=Form(form),
            deterministic=bool(deterministic),
        )
    if helper := _HELPER_NAME.fullmatch(name):
        step, arch, dtype = helper.groups()
        kind = BackwardPreprocessVariant if step == "preprocess" else BackwardPostprocessVariant
        return kind(arch=Arch(arch), dtype=DType(dtype))
    return None
