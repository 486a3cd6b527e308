"""Reads from a compiled GPU binary (an ELF file) what a kernel costs: registers and stack."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Attributes of the `.nv.info` section whose payload is (symbol, value).
_REGISTERS = 0x2F
_FRAME_SIZE = 0x11
_SYMBOL_AND_VALUE = 0x04  # the format byte of attributes that carry a sized payload


def _sections(elf: bytes) -> Iterator[tuple[int, str, bytes, int]]:
    """(index, name, contents, linked section) of each section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)

    def header(index: int) -> tuple[int, int, int, int, int]:
        name, kind, _, _, offset, size, link = struct.unpack_from(
            "<IIQQQQI", elf, table + index * entry_size
        )
        return name, kind, offset, size, link

    _, _, names_offset, _, _ = header(names_index)
    for index in range(count):
        name, kind, offset, size, link = header(index)
        start = names_offset + name
        text = elf[start : elf.index(b"\0", start)].decode()
        nobits = kind == 8
        yield index, text, b"" if nobits else elf[offset : offset + size], link


def kernel_facts(cubin: bytes) -> dict[str, dict[str, int]]:
    """Kernel name -> {"registers": per thread at launch, "stack_bytes": local memory per thread}.

    Stack other than 0 in a kernel without local arrays means spilled registers.
    """
    sections = {name: (contents, link) for _, name, contents, link in _sections(cubin)}
    contents_of = {index: contents for index, _, contents, _ in _sections(cubin)}
    symbols, names_index = sections[".symtab"]
    names = contents_of[names_index]

    def symbol_name(index: int) -> str:
        (offset,) = struct.unpack_from("<I", symbols, index * 24)
        return names[offset : names.index(b"\0", offset)].decode()

    facts: dict[str, dict[str, int]] = {}
    info, _ = sections[".nv.info"]
    position = 0
    while position < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, position)
        position += 4
        if form != _SYMBOL_AND_VALUE:
            continue
        label = {_REGISTERS: "registers", _FRAME_SIZE: "stack_bytes"}.get(attribute)
        if label is not None:
            symbol, value = struct.unpack_from("<II", info, position)
            facts.setdefault(symbol_name(symbol), {})[label] = value
        position += size
    # NOTES: functions that the assembler adds, the traps of tcgen05 say, have a stack frame alone.
    return {name: fact for name, fact in facts.items() if "registers" in fact}
