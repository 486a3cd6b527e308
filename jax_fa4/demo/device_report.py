"""What this machine is, what the build contains, and which path attention takes here."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jax_fa4

DTYPES = ("bfloat16", "float16", "float32")


def lines() -> Iterator[tuple[str, str]]:
    """(label, fact) pairs, in the order to show them."""
    build = jax_fa4.build_info()
    kernels = build.pop("variants").split()
    versions = {"jax_fa4": build.pop("jax_fa4"), "jax": build.pop("jax")}
    versions["Python"] = platform.python_version()
    yield "versions", _pairs(versions)
    for device in jax.local_devices():
        yield f"device {device.id}", _describe(device)
    yield "build", _pairs(build)
    yield f"{len(kernels)} kernels", " ".join(kernels) or "none"
    for dtype in DTYPES:
        yield f"{dtype} path", path(dtype, head_dim=128)


def path(dtype: jax.typing.DTypeLike, *, head_dim: int) -> str:
    """Which path causal attention takes on this machine, and why."""
    x = jax.ShapeDtypeStruct((1, 128, 1, head_dim), jnp.dtype(dtype))
    return jax_fa4.explain(x, x, x, is_causal=True)


def _describe(device: jax.Device) -> str:
    capability = getattr(device, "compute_capability", None)
    detail = "" if capability is None else f", compute capability {capability}"
    return f"{device.device_kind} ({device.platform}{detail})"


def _pairs(facts: dict[str, str]) -> str:
    return ", ".join(f"{name} {fact}" for name, fact in facts.items())
