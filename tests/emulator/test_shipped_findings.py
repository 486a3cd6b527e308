"""What a user reads who breaks a shipped kernel: both parties, and their lines in Python."""

import subprocess
import sys

import pytest

# In a process of its own: the emulator keeps the kernel that it was handed.
SCRIPT = """
import re

import jax.numpy as jnp
import jax_fa4
from jax_fa4 import emulator, ffi

lost, arch = {lost!r}, {arch!r}
x = jnp.ones((1, 256, 1, 64), jnp.bfloat16)
with emulator.options(arch=arch):
    name = jax_fa4.explain(x, x, x, implementation="emulator").split()[1]
    emulator.load(name)
    broken, count = re.subn(re.escape(lost) + "[^;]*;", "", emulator.ptx_of(name))
    assert count > 0
    ffi.extension().emulator_load(name, broken)
    try:
        jax_fa4.flash_attention(x, x, x, implementation="emulator")
    except Exception as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("arch", "lost", "words"),
    [
        (
            "sm100",
            "tcgen05.wait::st",
            ("race", "missing: a tcgen05.wait::st by warp", "toolkit/tensor_memory.py:", "mma.py:"),
        ),
        (
            "sm90",
            "wgmma.wait_group",
            ("register-in-flight", "missing: wgmma.wait_group", "toolkit/softmax.py:"),
        ),
    ],
)
def test_a_lost_wait_is_told_with_python_lines(arch, lost, words):
    script = SCRIPT.format(lost=lost, arch=arch)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "cpu", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
