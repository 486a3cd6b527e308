"""The words of which the names of kernels are made, and what each decides of a kernel.

They take part in every fingerprint (aot/fingerprint.py); what is only said with them does not.
"""

from __future__ import annotations

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
