"""Damaged and random kernels are refused or found fault with; nothing crashes, nothing hangs.

A short run of `fuzz.cc`, which says how to make a long one under the sanitizers. As a script, it
writes the kernels that are no files of their own:

    python tests/emulator/test_fuzz.py <directory>
"""

import itertools
import subprocess
import sys
from pathlib import Path

from tensor_kernels import product

INPUTS = 3000
# What the inputs must reach: the machine behind most of these is large.
FINDINGS = {
    *("cluster-launch", "cta-pair", "deadlock", "descriptor", "divergent", "launch", "mbarrier"),
    *("misaligned", "out-of-bounds", "race", "tensor-map", "tensor-memory", "uninitialised"),
}


def write_kernels(directory):
    """Products of the fifth-generation tensor cores, one CTA and two, A in either memory."""
    for group, kind, in_memory in itertools.product((1, 2), ("f16", "f8f6f4"), (False, True)):
        text = product(columns=64, kind=kind, group=group, a_in_tensor_memory=in_memory)
        (directory / f"product_{group}_{kind}_{int(in_memory)}.ptx").write_text(text)


def test_fuzz(fuzzer, tmp_path):
    write_kernels(tmp_path)
    finished = subprocess.run(
        [fuzzer, str(INPUTS), "1", Path(__file__).parent / "ptx", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    lines = (line.split(maxsplit=1) for line in finished.stdout.splitlines())
    counts = {what: int(count) for count, what in lines}
    assert counts["inputs"] == INPUTS
    # Many inputs must get past the parser, and some of those must run, or little is tried.
    assert counts["decoded"] > INPUTS // 2
    assert counts["ran to the end"] > INPUTS // 100
    assert set(counts) >= FINDINGS


if __name__ == "__main__":
    write_kernels(Path(sys.argv[1]))
