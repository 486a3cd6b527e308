"""Kernels compiled by CuTe DSL in process, on the emulator: the example, and misuse."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_fa4.emulator import cute_dsl
from jax_fa4.emulator.host_arrays import HostArray, is_host_array

EXAMPLE = Path(__file__).with_name("cute_dsl_example.py")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Runs the example in a process of its own, where cutlass is not imported yet."""
    if importlib.util.find_spec("cutlass") is None:
        pytest.skip("NOT TESTED HERE: CuTe DSL is a build requirement only; .ci/run installs it")

    def run(*arguments):
        command = [sys.executable, str(EXAMPLE), *arguments]
        where = tmp_path_factory.mktemp("example")
        return subprocess.run(command, capture_output=True, text=True, cwd=where, check=False)

    return run


def test_the_example_is_right(example):
    done = example()
    assert done.returncode == 0, done.stderr
    recorded, right, outside, read_only = done.stdout.splitlines()
    warps, executed, of_all = map(int, re.findall(r"\d+", recorded))
    assert warps == 4 * 4
    assert executed % warps == 0, "all warps execute the same"
    assert 0 < executed <= of_all, "a warp's tries at the barrier are counted once"
    assert right.startswith("right, 1 launch of ")
    assert outside.startswith("out-of-bounds: 4 bytes at"), "y is not among the buffers"
    assert read_only == "read-only: a write to buffer 1, which is read-only"


def test_the_forgotten_barrier_is_found_and_its_python_line_named(example):
    done = example("--forget")
    assert done.returncode == 1, done.stdout + done.stderr
    line = next(
        number
        for number, text in enumerate(EXAMPLE.read_text().splitlines(), 1)
        if "= memory[BLOCK - 1 - thread]" in text
    )
    assert done.stdout.startswith(("race: a read of shared", "uninitialised: a read of shared"))
    assert f"{EXAMPLE}:{line}\n" in done.stdout
    assert "kernel kernel_cutlass_reverse" in done.stdout


@pytest.mark.parametrize("arch", ["sm90", "100a", "", "sm_100ax"])
def test_an_unknown_architecture_is_refused(arch):
    with pytest.raises(ValueError, match=f"arch is '{arch}', expected a name like 'sm_90a'"):
        cute_dsl.start(arch)


def test_start_comes_before_cutlass(monkeypatch):
    monkeypatch.setitem(sys.modules, "cutlass", sys)
    with pytest.raises(RuntimeError, match=r"call start\(\) before the first import"):
        cute_dsl.start()


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "cutlass", raising=False)
    with pytest.raises(FileNotFoundError, match=r"nothing\.so is missing; install the package"):
        cute_dsl.start(library=tmp_path / "nothing.so")


def test_nothing_runs_before_start():
    class Compiled:
        __ptx__ = ".version 9.0"
        __cubin__ = b"ELF"

    with pytest.raises(RuntimeError, match=r"call .*start\(\) first"):
        cute_dsl.Emulated(Compiled())


def test_a_function_without_its_ptx_is_refused():
    class Compiled:
        __ptx__ = __cubin__ = None

    with pytest.raises(ValueError, match="kept no PTX"):
        cute_dsl.Emulated(Compiled())


@pytest.mark.parametrize(
    ("view", "first", "last"),
    [
        (np.s_[:], 0, 48),
        (np.s_[1:3, 2], 12, 22),  # elements 6 and 10, of 2 bytes
        (np.s_[::-1, 1:3], 2, 46),  # elements 1 to 22
        (np.s_[2:2], 0, 0),
    ],
)
def test_the_bytes_of_a_view(view, first, last):
    array = np.zeros((6, 4), np.int16)
    begin, end = HostArray(array[view]).extent()
    assert end - begin == last - first
    assert last == 0 or begin - array.ctypes.data == first


def test_what_counts_as_an_array_on_the_host():
    assert is_host_array(np.zeros(1))
    assert not any(map(is_host_array, (1, 2.0, "x", None, (np.zeros(1),), np.float32(1))))
