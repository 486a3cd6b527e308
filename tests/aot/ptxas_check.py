"""Assembles the Blackwell kernels' PTX with another ptxas than the compiler's own.

    python -m jax_fa4.aot --arch sm100 -o build/kernels
    pip install --target DIR nvidia-cuda-nvcc     # the newest ptxas, or any other
    python tests/aot/ptxas_check.py build/kernels --ptxas DIR/nvidia/cu13/bin/ptxas

For sm_100f, which the wheel is built for; for sm_103f and sm_103a, to see that a B300 lacks none of
the instructions. Prints registers, stack and spills beside the compiler's own; exits with 1 if a
text does not assemble, with 2 if one spills.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TARGETS = ("sm_100f", "sm_103f", "sm_103a")


@dataclass(frozen=True)
class Assembled:
    """What ptxas says of one kernel for one target; `error` if it does not assemble."""

    variant: str
    target: str
    registers: int = 0
    stack_bytes: int = 0
    spilled_bytes: int = 0  # stores and loads
    error: str = ""

    @property
    def words(self) -> str:
        if self.error:
            return f"does not assemble: {self.error}"
        return f"{self.registers} / {self.stack_bytes} / {self.spilled_bytes}"


def retargeted(ptx: str, target: str) -> str:
    """The text for another target; its instructions stay."""
    return re.sub(r"^(\.target\s+)\w+", rf"\g<1>{target}", ptx, count=1, flags=re.MULTILINE)


def parse(variant: str, target: str, said: str) -> Assembled:
    """The sum over a text's kernels of what `ptxas -v` prints, the most of registers."""
    if "error" in said or "fatal" in said:
        return Assembled(variant, target, error=said.strip().splitlines()[0])
    stack = map(int, re.findall(r"(\d+) bytes stack frame", said))
    spills = map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", said))
    registers = map(int, re.findall(r"Used (\d+) registers", said))
    return Assembled(variant, target, max(registers), sum(stack), sum(spills))


def assemble(ptxas: Path, path: Path, target: str) -> Assembled:
    """Runs ptxas on `<variant>.ptx`."""
    with tempfile.TemporaryDirectory() as directory:
        text = Path(directory) / "kernel.ptx"
        text.write_text(retargeted(path.read_text(), target))
        command = [str(ptxas), f"-arch={target}", "-v", str(text), "-o", str(text) + ".cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0 and "error" not in said and "fatal" not in said:
        said = f"error: exit status {done.returncode}"
    return parse(path.stem, target, said)


def version(ptxas: Path) -> str:
    """Its release, "13.5.37"."""
    said = subprocess.run([str(ptxas), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"V([\d.]+)", said.stdout)
    return found[1] if found else "unknown"


def of_compiler(path: Path) -> str:
    """What the compiler's own ptxas made, by the .json beside the text: spills are in the stack."""
    facts = json.loads(path.with_suffix(".json").read_text())["kernels"].values()
    registers = max(kernel["registers"] for kernel in facts)
    return f"{registers} / {sum(kernel['stack_bytes'] for kernel in facts)}"


def table(release: str, rows: dict[str, tuple[str, list[Assembled]]]) -> Iterator[str]:
    """The section's lines; `rows` has the compiler's own words and ours by variant."""
    yield "## ptxas"
    yield ""
    yield "Registers of the launch / bytes of stack: by the ptxas of nvidia-cutlass-dsl, whose code"
    yield f"the wheel has. Registers / bytes of stack / bytes spilled: by ptxas {release} of the"
    yield "package nvidia-cuda-nvcc, of the same text, for B200 and B300, and for B300 alone, which"
    yield "shows that no instruction is missing there. Written by `tests/aot/ptxas_check.py`."
    yield ""
    yield "| variant | wheel | " + " | ".join(TARGETS) + " |"
    yield "| --- |" + " ---: |" * (len(TARGETS) + 1)
    for variant, (own, found) in rows.items():
        yield f"| {variant} | {own} | " + " | ".join(one.words for one in found) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", type=Path, help="the folder that jax_fa4.aot wrote")
    parser.add_argument("--ptxas", type=Path, default=Path("ptxas"))
    parser.add_argument("--output", type=Path, help="a page for the table")
    options = parser.parse_args()
    paths = [
        path
        for path in sorted(options.kernels.glob("*.ptx"))
        if re.search(r"^\.target\s+sm_100f", path.read_text(), flags=re.MULTILINE)
    ]
    rows = {
        path.stem: (of_compiler(path), [assemble(options.ptxas, path, x) for x in TARGETS])
        for path in paths
    }
    text = "\n".join(table(version(options.ptxas), rows)) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text)
    found = [one for _, row in rows.values() for one in row]
    if not found or any(one.error for one in found):
        return 1
    return 2 if any(one.stack_bytes or one.spilled_bytes for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
