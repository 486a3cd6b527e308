"""The kernels of the page: ours and FlashAttention-4's, compiled, disassembled and taken apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.blackwell.roles import Pass, passes
from benchmarks.blackwell.sass import Program, disassemble
from jax_fa4.aot.cubin import kernel_facts

ROOT = Path(__file__).resolve().parents[2]
_ALLOCATION = re.compile(r"tcgen05\.alloc[^;]*,\s*(\S+);")


@dataclass(frozen=True)
class Peer:
    """A form of FlashAttention-4's forward; `ours` is the variant that runs the same problem."""

    head_dim: int
    mask: str
    ours: str
    one_cta: bool = False

    @property
    def name(self) -> str:
        return f"{self.head_dim} {self.mask}" + (", one CTA" if self.one_cta else "")


PEERS = (
    Peer(64, "full", "fwd_sm100_bf16_d64"),
    Peer(64, "causal", "fwd_sm100_bf16_d64"),
    Peer(128, "full", "fwd_sm100_bf16_d128"),
    Peer(128, "full", "fwd_sm100_bf16_d128", one_cta=True),
    Peer(128, "causal", "fwd_sm100_bf16_d128"),
)


@dataclass(frozen=True)
class Kernel:
    """What the binary of one kernel says."""

    name: str
    passes: list[Pass]
    registers: int  # of a thread at launch
    stack_bytes: int
    tmem_columns: int
    opcodes: frozenset[str]
    versions: dict[str, str] = field(default_factory=dict)

    def of(self, role: str) -> list[Pass]:
        """The role's passes."""
        return [each for each in self.passes if each.role == role]


def _tmem_columns(ptx: str) -> int:
    """As the instruction says, be it directly or by a register that holds a constant."""
    for size in _ALLOCATION.findall(ptx):
        constant = re.search(rf"mov\.[bu]32\s+{re.escape(size)}, (\d+);", ptx)
        if size.isdigit() or constant:
            return int(size if size.isdigit() else constant[1])  # type: ignore[index]
    return 0


def read(name: str, folder: Path, nvdisasm: str, versions: dict[str, str]) -> Kernel:
    """The kernel whose cubin and PTX a compiler left in `folder`."""
    cubin = next(folder.glob("*.cubin"))
    program = Program(disassemble(cubin, nvdisasm))
    (facts,) = kernel_facts(cubin.read_bytes()).values()
    return Kernel(
        name=name,
        passes=passes(program),
        registers=facts["registers"],
        stack_bytes=facts["stack_bytes"],
        tmem_columns=_tmem_columns(next(folder.glob("*.ptx")).read_text()),
        opcodes=frozenset(instruction.opcode for instruction in program.instructions),
        versions=versions,
    )


def ours(variant: str, folder: Path, nvdisasm: str) -> Kernel:
    """A variant of this checkout, compiled in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "jax_fa4.aot", "--compile-one", variant, "-o", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return read(variant, folder, nvdisasm, {})


def peer(case: Peer, folder: Path, nvdisasm: str, python: str) -> Kernel:
    """FlashAttention-4's kernel, compiled by the environment that has it."""
    script = str(Path(__file__).with_name("flash_attention_4.py"))
    command = [python, "-W", "ignore", script, str(folder), str(case.head_dim), case.mask]
    command += ["one-cta"] * case.one_cta
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return read(case.name, folder, nvdisasm, json.loads(done.stdout.splitlines()[-1]))
