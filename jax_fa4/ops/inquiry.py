"""Questions about a call or a build, answered in words."""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jax_fa4 import ffi
from jax_fa4.ops import checks, errors, mods, selection
from jax_fa4.ops.band import Band
from jax_fa4.ops.manual_axes import shape_dtype
from jax_fa4.ops.packing import Packing
from jax_fa4.ops.varlen import flash_attention_varlen
from jax_fa4.variants.problem import Problem
from jax_fa4.variants.workspace import Workspace

# The options of either public call; those that cannot change the answer are only known.
_NEUTRAL = (
    "is_causal",
    "causal",
    "local_window_size",
    "window_size",
    "return_residual",
    "return_lse",
    "causal_alignment",
    "checkpoint_name",
    "deterministic",
)
_SCALES = ("scale", "softmax_scale")
_WINDOWS = ("local_window_size", "window_size")
_SOFTCAPS = ("logits_soft_cap", "softcap")
_SINKS = ("sinks", "learnable_sink")
_MODS = ("score_mod", "mask_mod")
_DROPOUT = ("dropout_rate", "dropout_rng", "broadcast_dropout")
# Those of `flash_attention_varlen` alone.
_DOCUMENTS = (
    "cu_seqlens_q",
    "cu_seqlens_k",
    "max_seqlen_q",
    "max_seqlen_k",
    "seqused_q",
    "seqused_k",
)
_OPTIONS = (
    *_SCALES,
    *_NEUTRAL,
    *checks.DESCALES,
    *Packing._fields,
    *_SOFTCAPS,
    *_SINKS,
    *_MODS,
    *_DROPOUT,
    "implementation",
    *_DOCUMENTS,
)


def version() -> str:
    """The installed version of jax_fa4; "0+unknown" when run from its sources."""
    try:
        return importlib.metadata.version("jax_fa4")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


def is_supported(
    query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **options: Any
) -> str | None:
    """Whether the kernels run this call on this machine: None if they do, else the reason.

    With implementation="emulator": whether the emulator does.

    Takes the arguments of `dot_product_attention`, `flash_attention` or, all but the first three by
    name, `flash_attention_varlen`; arrays may be `jax.ShapeDtypeStruct`. implementation="fa4" (or
    "emulator") raises the same reason.
    """
    try:
        query, key, value, options = _without_documents(query, key, value, options)
        problem = _problem(query, key, value, bias, mask, options)
        if options.get("implementation") == "emulator":
            return selection.unsupported_by_emulator(problem)
        return selection.unsupported(problem)
    except (NotImplementedError, ImportError) as error:
        return str(error)


def explain(
    query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **options: Any
) -> str:
    """Which path this call takes on this machine, and why. Arguments as `is_supported`."""
    if options.get("implementation") == "xla":
        return "portable path (XLA): implementation='xla' was asked for"
    emulated = options.get("implementation") == "emulator"
    try:
        query, key, value, options = _without_documents(query, key, value, options)
        problem = _problem(query, key, value, bias, mask, options)
    except NotImplementedError as error:
        return f"no path, the call raises: {error}"
    reason = is_supported(query, key, value, bias, mask, **options)
    if reason is not None:
        return (
            f"the emulator cannot run it: {reason}"
            if emulated
            else (f"portable path (XLA): {reason}")
        )
    query, key = _arrays(query, key)
    if 0 in query.shape or 0 in key.shape:
        return "portable path (XLA): there is nothing to compute, the arrays are empty"
    path = selection.select(problem, "emulator" if emulated else None)
    shapes = _with_one_batch_axis(query), _with_one_batch_axis(key)
    band = _band(query, key, options)
    names, backward = path.forward_for(*shapes, band), path.backward_for(*shapes, band)
    if emulated:
        gradient = _gradient(path, backward)
        return f"kernel {', '.join(names)} on the emulator, on the CPU; {gradient}"
    device = selection.cuda_devices()[0]
    name = selection.kernel_for(device, names)
    backward = backward and (selection.kernel_for(device, backward),)
    return f"kernel {name} on {selection.describe(device)}; {_gradient(path, backward)}"


def backward_workspace_bytes(
    query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **options: Any
) -> int:
    """Device memory that the gradient's kernels use beside their arguments and results.

    Arguments as `is_supported`, of the sizes on one device. It is linear in the query length; 0 on
    the portable path, whose temporary arrays are XLA's to choose.
    """
    if options.get("implementation") == "xla":
        return 0
    query, key, value, options = _without_documents(query, key, value, options)
    if is_supported(query, key, value, bias, mask, **options) is not None:
        return 0
    path = selection.select(
        _problem(query, key, value, bias, mask, options), options.get("implementation")
    )
    query, key = _arrays(query, key)
    if not path.backward or 0 in query.shape or 0 in key.shape:
        return 0
    shapes = _with_one_batch_axis(query), _with_one_batch_axis(key)
    names = path.backward_for(*shapes, _band(query, key, options))
    batch, length, heads, _ = shapes[0]
    return Workspace.of(names, batch=batch, heads_q=heads, seqlen_q=length).bytes


def build_info() -> dict[str, str]:
    """What this installation consists of: versions, the extension's build, its kernels."""
    info = {"jax_fa4": version(), "jax": jax.__version__}
    problem = ffi.extension_problem()
    if problem is not None:
        return info | {"extension": f"missing: {problem}", "variants": ""}
    extension = ffi.extension()
    info |= {str(name): str(value) for name, value in extension.build_info().items()}
    return info | {"extension": "present", "variants": " ".join(extension.variant_names())}


def _gradient(path: selection.Path, kernels: tuple[str, ...]) -> str:
    """Which path a call's gradient takes."""
    if kernels:
        return f"gradient: kernel {', '.join(kernels)}"
    if path.backward_reason is None:
        return "no gradient: differentiating 8-bit elements raises"
    return f"gradient: portable path (XLA): {path.backward_reason}"


def _without_documents(
    query: Any, key: Any, value: Any, options: dict[str, Any]
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A call of `flash_attention_varlen` as one of a batch of 1 with segment ids.

    To kernels both are what each row sees, by values. Other calls stay as they are.
    """
    if not set(_DOCUMENTS) & set(options):
        return query, key, value, options
    arrays = _arrays(query, key, value)
    given = {name: x for name, x in options.items() if hasattr(x, "dtype")}
    fixed = {name: x for name, x in options.items() if name not in given}
    fixed["implementation"] = "xla"  # which takes whatever is no mistake
    q, k, v = (shape_dtype(x.shape, x.dtype) for x in arrays)
    jax.eval_shape(functools.partial(flash_attention_varlen, **fixed), q, k, v, **given)
    rest = {name: x for name, x in options.items() if name not in _DOCUMENTS}
    batch = [shape_dtype((1, *x.shape), x.dtype) for x in (q, k, v)]
    ids = [shape_dtype(x.shape[:2], jnp.int32) for x in batch]
    rest |= dict(zip(Packing._fields[2:], ids, strict=False))
    return batch[0], batch[1], batch[2], rest


def _arrays(*arguments: Any) -> list[Any]:
    """Arguments with a shape and a dtype, as `jax.ShapeDtypeStruct` has them."""
    return [x if hasattr(x, "dtype") else jnp.asarray(x) for x in arguments]


def _with_one_batch_axis(x: Any) -> tuple[int, ...]:
    """The shape of a query or key as kernels are given it."""
    return (math.prod(x.shape[:-3]), *x.shape[-3:])


def _band(query: Any, key: Any, options: Mapping[str, Any]) -> Band:
    """The band of either public call, which its options tell."""
    flash = {"causal", "window_size"} & set(options)
    window = next((options[n] for n in _WINDOWS if options.get(n) is not None), None)
    return Band.make(
        query.shape[-3],
        key.shape[-3],
        causal=any(bool(options.get(name)) for name in ("is_causal", "causal")),
        window=checks.window("window_size", window),
        alignment="bottom_right" if flash else options.get("causal_alignment", "top_left"),
    )


def _problem(
    query: Any, key: Any, value: Any, bias: Any, mask: Any, options: Mapping[str, Any]
) -> Problem:
    for name in options:
        if name not in _OPTIONS:
            raise errors.bad_option(name, _OPTIONS)
    arrays = _arrays(query, key, value)
    q, k, v = (shape_dtype((1, *x.shape[-3:]), x.dtype) for x in arrays)
    packing = Packing(*(options.get(name) for name in Packing._fields))
    score_mod, mask_mod = (options.get(name) for name in _MODS)
    rate = checks.dropout_rate(options.get("dropout_rate", 0.0))
    if rate and options.get("dropout_rng") is None:
        raise errors.no_dropout_key(rate)
    # What dot_product_attention alone takes, which takes no 8 bits.
    of_level_1 = (bias, mask, *packing, score_mod, mask_mod, rate or None)
    takes_fp8 = all(x is None for x in of_level_1)
    checks.qkv(("query", "key", "value"), q, k, v, takes_fp8=takes_fp8)
    mods.make(score_mod, mask_mod, (None, None), q.dtype)
    for name in checks.DESCALES:
        if options.get(name) is not None:
            checks.descale(name, *_arrays(options[name], *arrays[:2]))
    packing.check(arrays[0].shape[:-3], (q.shape[1], k.shape[1]))
    for name in _SINKS:
        if options.get(name) is not None:
            checks.sinks(name, _arrays(options[name])[0], q.shape[2])
    caps = [checks.softcap(name, options.get(name)) for name in _SOFTCAPS]
    width = arrays[0].shape[-1]
    scale = next((options[n] for n in _SCALES if options.get(n) is not None), None)
    return Problem(
        dtype=str(arrays[0].dtype),
        head_dim=width,
        head_dim_v=arrays[2].shape[-1],
        softmax_scale=checks.scale("scale", scale, width),
        has_bias=bias is not None,
        has_mask=mask is not None,
        deterministic=bool(options.get("deterministic", False)),
        has_bounds=packing.is_given,
        has_softcap=any(caps),
        has_mods=score_mod is not None or mask_mod is not None,
        has_dropout=rate > 0,
    )
