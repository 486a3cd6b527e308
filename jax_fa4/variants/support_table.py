"""The README's table of what has a kernel, from the table of kernels.

python -m jax_fa4.variants.support_table           prints it
python -m jax_fa4.variants.support_table README.md puts it between its marks in a file
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from jax_fa4.variants.catalog import CATALOG, is_deterministic
from jax_fa4.variants.variant import (
    HALF_PRECISIONS,
    Arch,
    BackwardVariant,
    DecodeVariant,
    DType,
    ForwardVariant,
    Variant,
)

BEGIN = "<!-- what has a kernel: made by `python -m jax_fa4.variants.support_table README.md` -->\n"
END = "<!-- end of what has a kernel -->\n"

_Main = ForwardVariant | BackwardVariant

_FAMILIES = {Arch.SM90: "Hopper", Arch.SM100: "Blackwell"}
_NONE = "-"


def _is_half(variant: _Main) -> bool:
    return variant.dtype in HALF_PRECISIONS


def _is_plain(variant: _Main) -> bool:
    return _is_half(variant) and not variant.bounded


def _is_bounded(variant: _Main) -> bool:
    return _is_half(variant) and variant.bounded and not variant.softcap


def _fixes_bits(variant: _Main) -> bool:
    return isinstance(variant, ForwardVariant) or is_deterministic(variant)


Chosen = Callable[[_Main], bool]

# What a user asks for -> the kernels that serve it.
_ROWS: tuple[tuple[str, Chosen], ...] = (
    ("full, causal and sliding windows, GQA, any lengths", _is_plain),
    ("their gradient with the same bits in every run", lambda v: _is_plain(v) and _fixes_bits(v)),
    ("segment ids, sequence lengths, packed sequences", _is_bounded),
    ("their gradient with the same bits in every run", lambda v: _is_bounded(v) and _fixes_bits(v)),
    ("a soft cap, also with segment ids and lengths", lambda v: _is_half(v) and v.softcap),
    (
        "a soft cap, its gradient with the same bits in every run",
        lambda v: _is_half(v) and v.softcap and _fixes_bits(v),
    ),
    ("float8_e4m3fn, full, causal and windows", lambda v: v.dtype is DType.E4M3),
)


def table(catalog: Iterable[Variant] = CATALOG) -> str:
    """Markdown: a row for each feature, a column for each family and direction."""
    variants = tuple(catalog)
    main = [v for v in variants if isinstance(v, ForwardVariant | BackwardVariant)]
    columns: list[tuple[Arch, str, type[_Main]]] = [
        (arch, name, kind)
        for arch in Arch
        for name, kind in (("forward", ForwardVariant), ("backward", BackwardVariant))
    ]
    lines = [
        "| bfloat16 and float16, if not said | "
        + " | ".join(f"{_FAMILIES[arch]} {name}" for arch, name, _ in columns)
        + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for feature, serves in _ROWS:
        cells = [
            _head_dims(v for v in main if isinstance(v, kind) and v.arch is arch and serves(v))
            for arch, _, kind in columns
        ]
        if any(cell != _NONE for cell in cells):
            lines.append(f"| {feature} | {' | '.join(cells)} |")
    decoding = [v for v in variants if isinstance(v, DecodeVariant)]
    if decoding:
        cells = [
            _head_dims(v for v in decoding if v.arch is arch and name == "forward")
            for arch, name, _ in columns
        ]
        lines.append(f"| decoding: few queries, a long or paged cache | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _head_dims(variants: Iterable[_Main | DecodeVariant]) -> str:
    pairs = sorted({(v.head_dim, v.head_dim_v) for v in variants})
    return ", ".join(str(d) if d == d_v else f"({d}, {d_v})" for d, d_v in pairs) or _NONE


def with_table(text: str) -> str:
    """A page with the table as it is now; ValueError if it has no place for it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no lines {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + table() + END + after


def main(arguments: list[str]) -> None:
    if not arguments:
        print(table(), end="")
    for name in arguments:
        path = Path(name)
        path.write_text(with_table(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
