"""Writes the kernel of every scalar case that has no file yet.

    python tests/emulator/write_cases.py

A kernel loads an element of each source, a thread each, executes the case's instruction and
stores the result.
"""

from pathlib import Path

from blackwell_cases import BLACKWELL
from instruction_cases import CASES, Case
from narrow_cases import NARROW

PTX = Path(__file__).parent / "ptx"
# Bytes of the kinds whose names do not tell.
BYTES = {"pred": 4, "amount": 4, "field": 4, "selector": 4, "bf16": 2, "f32x2": 8, "f16x2": 4}
BYTES |= {"e4m3x2": 2, "e5m2x2": 2}
REGISTERS = {1: "%h", 2: "%h", 4: "%r", 8: "%rd"}  # by the bytes of a kind

KERNEL = """.version {version}
.target {target}
.address_size 64

.visible .entry kernel({parameters})
{{
  .reg .pred %p<8>;
  .reg .b16 %h<8>;
  .reg .b32 %r<12>;
  .reg .b64 %rd<16>;

  mov.u32 %r10, %tid.x;
  mov.u32 %r11, %ctaid.x;
  mad.lo.s32 %r10, %r11, 128, %r10;
{load}

{body}

{store}
  ret;
}}
"""


def size(kind: str) -> int:
    return BYTES.get(kind) or int(kind.lstrip("subf")) // 8


def pointers(case: Case) -> list[str]:
    """Registers %rd8 and up: where the thread's result and sources are."""
    lines = []
    for at, kind in enumerate((case.result, *case.sources)):
        lines += [
            f"ld.param.b64 %rd{8 + at}, [{'dabcef'[at]}];",
            f"mul.wide.u32 %rd7, %r10, {size(kind)};",
            f"add.s64 %rd{8 + at}, %rd{8 + at}, %rd7;",
        ]
    return lines


def loads(case: Case) -> tuple[list[str], list[str]]:
    """The lines that load the sources, and their registers."""
    lines, registers = [], []
    for at, kind in enumerate(case.sources, 1):
        register = f"{REGISTERS[size(kind)]}{at}"
        signed_byte = kind if size(kind) == 1 else f"b{8 * size(kind)}"
        lines.append(f"ld.global.{signed_byte} {register}, [%rd{8 + at}];")
        if kind == "pred":
            lines.append(f"setp.ne.b32 %p{at}, {register}, 0;")
            register = f"%p{at}"
        registers.append(register)
    return lines, registers


def text(case: Case) -> str:
    loaded, sources = loads(case)
    result = f"{REGISTERS[4 if case.wide else size(case.result)]}0"
    store = []
    destination = result
    if case.result == "pred":
        destination = "%p0"
        store.append(f"selp.b32 {result}, 1, 0, %p0;")
    store.append(f"st.global.b{8 * size(case.result)} [%rd8], {result};")
    operands = [destination, *sources]
    body = case.body.format(*operands) if case.body else f"{case.opcode} {', '.join(operands)};"

    def indented(lines: list[str]) -> str:
        return "\n".join(f"  {line}" for line in lines)

    names = "dabcef"[: 1 + len(case.sources)]
    return KERNEL.format(
        version="8.6" if case.target == "sm_90a" else "8.8",
        target=case.target,
        parameters=", ".join(f".param .u64 {name}" for name in names),
        load=indented(pointers(case) + loaded),
        body=indented(body.split("\n")),
        store=indented(store),
    )


def main() -> None:
    for case in (*CASES, *NARROW, *BLACKWELL):
        path = PTX / f"{case.file}.ptx"
        if not path.exists():
            path.write_text(text(case))
            print("wrote", path.name)


if __name__ == "__main__":
    main()
