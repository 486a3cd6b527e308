"""Arguments that the interface has and no path implements yet: refused, never ignored."""

from __future__ import annotations

from typing import Any

from jax_fa4.ops import errors

_SOFT_CAP = "leave it out"
_SINKS = "leave it out"

# Name -> (value that asks for nothing, way out).
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "logits_soft_cap": (None, _SOFT_CAP),
    "softcap": (0.0, _SOFT_CAP),
    "sinks": (None, _SINKS),
    "learnable_sink": (None, _SINKS),
}


def refuse(**values: Any) -> None:
    """NotImplementedError for the first argument whose value asks for something."""
    for name, value in values.items():
        neutral, remedy = ARGUMENTS[name]
        asks = value is not None and not (isinstance(value, (int, float)) and value == neutral)
        if asks:
            raise errors.not_built(name, _short(value), remedy)


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"<array of shape {shape}>"
