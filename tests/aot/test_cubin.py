"""What compiled kernels cost, read from the GPU binaries inside the installed extension."""

import re
import struct
from pathlib import Path

import pytest

from jax_fa4 import _ext
from jax_fa4.aot.cubin import kernel_facts

FATBIN_MAGIC = struct.pack("<I", 0xBA55ED50)


def cubins():
    """The ELF file in each fatbin of the extension."""
    extension = Path(_ext.__file__).read_bytes()
    for found in re.finditer(re.escape(FATBIN_MAGIC), extension):
        header_size, size = struct.unpack_from("<HQ", extension, found.start() + 6)
        start = found.start() + header_size
        kind, entry_header = struct.unpack_from("<HxxI", extension, start)
        assert kind == 2, "an ELF file, not PTX"
        yield extension[start + entry_header : start + size]


@pytest.fixture(scope="module")
def facts():
    return [kernel_facts(cubin) for cubin in cubins()]


def test_one_binary_for_each_variant(facts):
    assert len(facts) == len(_ext.variant_names())
    assert all(len(kernels) >= 1 for kernels in facts)


def test_registers_are_counted(facts):
    for kernels in facts:
        for kernel, cost in kernels.items():
            assert kernel.startswith("kernel_")
            assert 16 <= cost["registers"] <= 255


def test_no_kernel_spills(facts):
    """Local memory of a kernel that declares none is spilled registers."""
    assert [kernels for kernels in facts for cost in kernels.values() if cost["stack_bytes"]] == []
