"""What a build of kernels produced: read by CMake, by the generated C++ table and by tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jax_fa4.variants.variant import (
    BackwardPostprocessVariant,
    BackwardPreprocessVariant,
    BackwardVariant,
    DecodeCombineVariant,
    DecodeVariant,
    ForwardVariant,
    Variant,
    parse,
)

FILE_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One compiled variant: its fingerprint, its entry points, its kernels' facts."""

    name: str
    fingerprint: str
    init: str
    load_to_device: str
    launch: str
    kernels: dict[str, dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Every compiled variant, and what compiled them."""

    cutlass_dsl_version: str
    fingerprint: str
    entries: tuple[Entry, ...]


def write(manifest: Manifest, directory: Path) -> None:
    """Writes the manifest beside the object files."""
    (directory / FILE_NAME).write_text(json.dumps(asdict(manifest), indent=2) + "\n")


def read(directory: Path) -> Manifest:
    """The manifest that `write` left in the directory."""
    fields = json.loads((directory / FILE_NAME).read_text())
    entries = tuple(Entry(**entry) for entry in fields.pop("entries"))
    return Manifest(entries=entries, **fields)


def _kind_and_head_dims(variant: Variant) -> tuple[str, int, int]:
    match variant:
        case ForwardVariant(bounded=True):
            return "kForwardBounded", variant.head_dim, variant.head_dim_v
        case ForwardVariant():
            return "kForward", variant.head_dim, variant.head_dim_v
        case BackwardPreprocessVariant():
            return "kBackwardPreprocess", 0, 0
        case BackwardVariant(bounded=True):
            return "kBackwardBounded", variant.head_dim, variant.head_dim_v
        case BackwardVariant():
            return "kBackward", variant.head_dim, variant.head_dim_v
        case BackwardPostprocessVariant():
            return "kBackwardPostprocess", 0, 0
        case DecodeVariant():
            return "kDecode", variant.head_dim, variant.head_dim_v
        case DecodeCombineVariant():
            return "kDecodeCombine", 0, 0


def _declarations(entry: Entry) -> Sequence[str]:
    return (
        f"void {entry.init}(void**);",
        f"void {entry.load_to_device}(void**);",
        f"void {entry.launch}(void**, int32_t);",
    )


def _row(entry: Entry) -> str:
    variant = parse(entry.name)
    kind, head_dim, head_dim_v = _kind_and_head_dims(variant)
    major = variant.arch.compute_capability_major
    softcap = str(getattr(variant, "softcap", False)).lower()
    points = f"{entry.init}, {entry.load_to_device}, {entry.launch}"
    return (
        f'    {{"{entry.name}", VariantKind::{kind}, {major}, '
        f'"{variant.dtype.value}", {head_dim}, {head_dim_v}, {softcap}, {points}}},'
    )


def table(manifest: Manifest, template: str) -> str:
    """The C++ table of variants, from the text of cmake/variant_table.cc.in."""
    declarations = [line for entry in manifest.entries for line in _declarations(entry)]
    fields = {
        "DECLARATIONS": "\n".join(declarations),
        "ROWS": "\n".join(_row(entry) for entry in manifest.entries),
        "SIZE": str(len(manifest.entries)),
        "CUTLASS_DSL_VERSION": manifest.cutlass_dsl_version,
        "FINGERPRINT": manifest.fingerprint,
    }
    for name, text in fields.items():
        template = template.replace(f"@{name}@", text)
    return template
