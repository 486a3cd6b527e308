"""Which pipe of a multiprocessor executes an instruction.

Source of the pipes: NVIDIA, "Nsight Compute, Kernel Profiling Guide", list of pipelines. FMA:
float32 arithmetic and integer multiplication. ALU: bits, integer arithmetic other than products,
comparisons, minima and maxima, "on NVIDIA Ampere architecture chips" also "fast FP32-to-FP16
conversion", which F2FP is. XU: special functions. Uniform: the scalar data path of a warp, with its
own opcodes (U...). No such list of tcgen05's instructions is published: the groups tensor, tmem,
tma and sync are by what the instruction does. A copy of a register is counted apart, though
ptxas puts it on whichever of FMA (IMAD.MOV) and ALU (MOV) has room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.blackwell.sass import Instruction

PIPES = (
    *("tensor", "mufu", "fma", "alu", "tmem", "lsu", "tma"),
    *("sync", "moves", "uniform", "branch", "other"),
)

_FMA = "FFMA FFMA2 FMUL FMUL2 FADD FADD2 IMAD HFMA2 HADD2 HMUL2 FMUL32I"
_ALU = (
    "FMNMX FMNMX3 FSETP FSEL FSET FCHK SEL ISETP IADD IADD3 IADDMNMX VIADD VIMNMX VIMNMX3 "
    "VIADDMNMX LEA LOP3 PLOP3 SHF SHL SHR PRMT SGXT BMSK IABS F2FP P2R R2P ISET LOP I2FP "
    "IMNMX POPC FLO"
)
_MUFU = "MUFU F2I I2F F2F FRND"
_TMEM = "LDTM STTM LDT STT"
_LSU = "LDS STS LDG STG LDL STL LD ST LDSM STSM ATOMS ATOMG RED LDC LDCU S2R S2UR CS2R SHFL"
_SYNC = (
    "SYNCS BAR WARPSYNC FENCE MEMBAR ELECT VOTE VOTEU NOP ERRBAR DEPBAR NANOSLEEP CCTL "
    "CGAERRBAR UCGABAR_ARV UCGABAR_WAIT USETMAXREG YIELD ACQBULK MATCH CREDUX"
)
_MOVES = "MOV R2UR MOV32I"
_BRANCH = "BRA BRX EXIT CALL RET BSSY BSYNC BREAK JMP BMOV RPCMOV"
_BY_NAME = {
    name: pipe
    for pipe, names in (
        ("branch", _BRANCH),
        ("fma", _FMA),
        ("alu", _ALU),
        ("mufu", _MUFU),
        ("tmem", _TMEM),
        ("lsu", _LSU),
        ("sync", _SYNC),
        ("moves", _MOVES),
    )
    for name in names.split()
}


def pipe_of(instruction: Instruction) -> str:
    """One of PIPES."""
    name = instruction.name
    # What ptxas copies registers and constants with: RZ * RZ + the value.
    copies = name in ("IMAD", "HFMA2") and "RZ, RZ, " in instruction.operands
    zeroes = name == "CS2R" and "SRZ" in instruction.operands
    if copies or zeroes or name == "UMOV":
        return "moves"
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith("UTC"):
        return "tensor"
    if name.startswith(("UTMA", "UBLK")):
        return "tma"
    if name.startswith("U"):
        return "uniform"
    return "other"


def by_pipe(instructions: Iterable[Instruction]) -> Counter[str]:
    """How many instructions each pipe gets."""
    return Counter(pipe_of(instruction) for instruction in instructions)
