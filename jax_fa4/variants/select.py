"""Problem -> kernels, in two steps: which serve it, and which of these a call's lengths want.

One name for each architecture is left; the device decides at launch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from jax_fa4.variants import select_backward, select_sm100
from jax_fa4.variants.catalog import CATALOG, is_deterministic, widest_head_dim
from jax_fa4.variants.problem import Call, Problem
from jax_fa4.variants.variant import (
    HALF_PRECISIONS,
    Arch,
    BackwardPostprocessVariant,
    BackwardPreprocessVariant,
    BackwardVariant,
    ForwardVariant,
    Variant,
    parse,
)

_Wide = TypeVar("_Wide", ForwardVariant, BackwardVariant)


def refusal(problem: Problem) -> str | None:
    """Why no kernel of any architecture serves `problem`, and the way out; None if one does."""
    dtype = problem.kernel_dtype
    if dtype is None:
        return (
            f"query, key and value are {problem.dtype}, and the kernels take bfloat16 and float16; "
            "cast them (on a Flax layer: dtype=jnp.bfloat16) or use implementation='xla'"
        )
    widest = widest_head_dim(dtype)
    for name, width in (("head dim", problem.head_dim), ("value head dim", problem.head_dim_v)):
        if width > widest:
            kernel = "widest kernel" if dtype in HALF_PRECISIONS else "widest kernel for 8 bits"
            return f"{name} {width} is above {widest}, the {kernel}; use implementation='xla'"
    if problem.has_bias:
        return (
            "bias is given, and the kernels take none; leave it out or use implementation='xla', "
            "which is blockwise"
        )
    if problem.has_mask:
        return (
            "mask is given, and the kernels take no dense mask; say it with is_causal= or "
            "local_window_size=, or use implementation='xla', which is blockwise"
        )
    if problem.has_mods:
        return (
            "score_mod or mask_mod is given, which the kernels do not take; use "
            "implementation='xla', which is blockwise"
        )
    if problem.has_dropout:
        return (
            "dropout_rate is given, and the kernels have no dropout; leave it 0 (drop outputs of "
            "the layer instead), or use implementation='xla', which is blockwise"
        )
    if not problem.softmax_scale > 0:
        return (
            f"scale is {problem.softmax_scale:g}, and the kernels take scale > 0; "
            "use implementation='xla'"
        )
    if problem.is_bounded and not any(_serves(v, problem) for v in CATALOG):
        return f"no kernel takes {arrays(problem)}; use implementation='xla', which is blockwise"
    return None


def arrays(problem: Problem) -> str:
    """What a kernel would have to take, in the words of users."""
    features = {
        "segment ids or sequence lengths": problem.has_bounds,
        "logits_soft_cap": problem.has_softcap,
    }
    given = [words for words, is_given in features.items() if is_given]
    return (
        f"{problem.dtype}, head dims {problem.head_dim} (query, key) and {problem.head_dim_v} "
        "(value)" + (f" with {' and '.join(given)}" if given else "")
    )


def _serves(variant: Variant, problem: Problem) -> bool:
    """Whether it is a forward kernel that takes the arrays and features of a problem."""
    return isinstance(variant, ForwardVariant) and _takes(variant, problem)


def _takes(variant: ForwardVariant | BackwardVariant, problem: Problem) -> bool:
    return (
        variant.dtype is problem.kernel_dtype
        and variant.holds(problem.head_dim, problem.head_dim_v)
        and variant.bounded == problem.is_bounded
        and variant.softcap == problem.has_softcap
    )


def forward_variants(
    problem: Problem, built: Collection[str] | None = None
) -> tuple[ForwardVariant, ...]:
    """The narrowest kernel that holds the head dims, for each architecture, in all its forms.

    `built` restricts the choice to the names that a build contains. Padding a head dim up
    to a wider tile costs in proportion to the width (the tile is multiplied in full, once with
    the head dim of Q and K and once with that of V), so the narrowest is the fastest.
    """
    if refusal(problem) is not None:
        return ()
    return _narrowest((v for v in CATALOG if isinstance(v, ForwardVariant)), problem, built)


def backward_variants(
    problem: Problem, built: Collection[str] | None = None
) -> tuple[BackwardVariant, ...]:
    """The backward's main kernels for a problem, in all their forms, for each architecture.

    The narrowest that hold the head dims, as in the forward, and whose helpers are built too.
    """
    if refusal(problem) is not None:
        return ()
    kernels = (
        variant
        for variant in CATALOG
        if isinstance(variant, BackwardVariant)
        and (is_deterministic(variant) if problem.deterministic else not variant.deterministic)
        and all(_is_built(name, built) for name in helpers(variant))
    )
    return _narrowest(kernels, problem, built)


def helpers(variant: BackwardVariant) -> tuple[str, str]:
    """The kernels that run before and after it, as csrc/backward.cc chooses them."""
    return (
        BackwardPreprocessVariant(arch=variant.arch, dtype=variant.dtype).name,
        BackwardPostprocessVariant(arch=variant.arch, dtype=variant.dtype).name,
    )


def for_call(names: Iterable[str], call: Call) -> tuple[str, ...]:
    """Of the forms of `forward_variants`, the one that runs a call fastest, by architecture."""
    chosen = []
    variants = [parse(name) for name in names]
    for arch in Arch:
        forms = [v for v in variants if isinstance(v, ForwardVariant) and v.arch is arch]
        if len(forms) > 1:
            chosen.append(select_sm100.cheapest(forms, call).name)
        elif forms:
            chosen.append(forms[0].name)
    return tuple(chosen)


def backward_for_call(names: Iterable[str], call: Call) -> tuple[str, ...]:
    """The same of the forms of `backward_variants`."""
    variants = [parse(name) for name in names]
    forms = {
        arch: [v for v in variants if isinstance(v, BackwardVariant) and v.arch is arch]
        for arch in Arch
    }
    return tuple(select_backward.fastest(of, call).name for of in forms.values() if of)


def _narrowest(
    kernels: Iterable[_Wide], problem: Problem, built: Collection[str] | None
) -> tuple[_Wide, ...]:
    """Those of the kernels that serve a problem, of the least width in each architecture."""
    serving = [
        variant
        for variant in kernels
        if _takes(variant, problem) and _is_built(variant.name, built)
    ]
    narrowest = {
        arch: min((_width(v) for v in serving if v.arch is arch), default=0) for arch in Arch
    }
    return tuple(
        v for arch in Arch for v in serving if v.arch is arch and _width(v) == narrowest[arch]
    )


def _width(variant: ForwardVariant | BackwardVariant) -> int:
    """What its products cost a key and a query, up to a constant."""
    return variant.head_dim + variant.head_dim_v


def _is_built(name: str, built: Collection[str] | None) -> bool:
    return built is None or name in built
