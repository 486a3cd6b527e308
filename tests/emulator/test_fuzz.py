"""Damaged kernels are refused or found fault with; nothing crashes and nothing hangs.

A short run of `fuzz.cc`, which says how to make a long one under the sanitizers.
"""

import subprocess
from pathlib import Path

INPUTS = 2000


def test_fuzz(fuzzer, tmp_path):
    corpus = Path(__file__).parent / "ptx"
    finished = subprocess.run(
        [fuzzer, corpus, str(INPUTS), "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    inputs, decoded, ran = (int(word) for word in finished.stdout.split() if word.isdigit())
    assert inputs == INPUTS
    # Some inputs must get past the parser, and some of those must run, or little is tried.
    assert decoded > INPUTS // 10
    assert ran > INPUTS // 20
