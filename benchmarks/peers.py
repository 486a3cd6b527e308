"""The contestants, each behind one signature: attend(query, key, value, causal) -> output.

Arrays are (B, S, H, D). A contestant that cannot run here raises `Absent` with the
reason, which every table repeats: none is dropped without a word.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from benchmarks import flash_attention_3

Attend = Callable[[jax.Array, jax.Array, jax.Array, bool], jax.Array]


class Absent(Exception):
    """A contestant cannot run in this process; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One contestant. `packages` are the distributions whose versions identify it."""

    name: str
    load: Callable[[], Attend]
    packages: tuple[str, ...]
    ours: bool = False


def _require_nvidia_gpu() -> None:
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise Absent(f"it needs an NVIDIA GPU; this process runs on {device.device_kind!r}")


def _import(module: str, wheel: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken install raises anything
        reason = str(error).strip().splitlines() or ["no message"]
        raise Absent(
            f"`import {module}` (of {wheel}) raised {type(error).__name__}: {reason[0]}"
        ) from None


def _jax_fa4() -> Attend:
    _require_nvidia_gpu()
    module = _import("jax_fa4", "jax-fa4")
    return lambda q, k, v, causal: module.flash_attention(
        q, k, v, causal=causal, implementation="fa4"
    )


def _jax_fa4_portable() -> Attend:
    module = _import("jax_fa4", "jax-fa4")
    return lambda q, k, v, causal: module.flash_attention(
        q, k, v, causal=causal, implementation="xla"
    )


def _jax_nn(implementation: Literal["cudnn", "xla"]) -> Attend:
    """jax.nn takes values as wide as keys only: narrower ones are padded with zeros."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
        width = v.shape[-1]
        padding = [(0, 0)] * 3 + [(0, k.shape[-1] - width)]
        out = jax.nn.dot_product_attention(
            q, k, jnp.pad(v, padding), is_causal=causal, implementation=implementation
        )
        return out[..., :width]

    return attend


def _cudnn() -> Attend:
    _require_nvidia_gpu()
    return _jax_nn("cudnn")


def _xla() -> Attend:
    return _jax_nn("xla")


def _flash_attn3_jax() -> Attend:
    _require_nvidia_gpu()
    _import("flash_attn3_jax", "flash-attn3-jax")
    return flash_attention_3.attend


def _tokamax() -> Attend:
    _require_nvidia_gpu()
    module = _import("tokamax", "tokamax")
    return lambda q, k, v, causal: module.dot_product_attention(
        q, k, v, is_causal=causal, implementation="mosaic"
    )


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(name="jax_fa4", load=_jax_fa4, packages=("jax-fa4",), ours=True),
        Peer(name="jax_fa4-portable", load=_jax_fa4_portable, packages=("jax-fa4",), ours=True),
        Peer(name="cudnn", load=_cudnn, packages=("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")),
        Peer(name="flash-attn3-jax", load=_flash_attn3_jax, packages=("flash-attn3-jax",)),
        Peer(name="tokamax", load=_tokamax, packages=("tokamax",)),
        Peer(name="xla", load=_xla, packages=("jaxlib",)),
    )
}

# The quadratic XLA path and our portable one are asked for by name: they are slow, not peers.
DEFAULT_PEERS: tuple[str, ...] = ("jax_fa4", "cudnn", "flash-attn3-jax", "tokamax")


def load(names: Sequence[str]) -> tuple[dict[str, Attend], dict[str, str]]:
    """The contestants that can run here, and the reason of each that cannot."""
    present: dict[str, Attend] = {}
    absent: dict[str, str] = {}
    for name in names:
        try:
            present[name] = PEERS[name].load()
        except Absent as reason:
            absent[name] = str(reason)
    return present, absent
