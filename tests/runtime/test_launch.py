"""From an FFI call to the driver, on any machine: the installed extension and its real compiled
kernels, a fake libcuda under them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

HERE = Path(__file__).parent
SM90 = "bwd_preprocess_sm90_bf16"
SM100 = "bwd_preprocess_sm100_bf16"
BOTH = f"{SM90} {SM100}"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Directory with the fake libcuda.so.1 and ffi_caller.so."""
    compiler = shutil.which("g++")
    assert compiler is not None, "the package is built with g++, so it is needed here too"
    directory = tmp_path_factory.mktemp("libraries")
    command = [compiler, "-std=c++17", "-O0", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command += ["-isystem", jax.ffi.include_dir()]
    for source, library in [("fake_libcuda", "libcuda.so.1"), ("ffi_caller", "ffi_caller.so")]:
        files = [str(HERE / f"{source}.cc"), "-o", str(directory / library)]
        subprocess.run([*command, *files], check=True)
    return directory


@pytest.fixture
def on_fake_gpu(libraries):
    """Makes calls in a new process: a list of threads, each a list of (stage, device, variants)."""

    def call(threads, devices="90", fail=""):
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(libraries),
            "FAKE_CUDA_DEVICES": devices,
            "FAKE_CUDA_FAIL": fail,
        }
        script, caller = str(HERE / "call_on_fake_gpu.py"), str(libraries / "ffi_caller.so")
        finished = subprocess.run(
            [sys.executable, "-P", script, caller, json.dumps(threads)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return call


def launches(result):
    return [line for line in result["journal"] if line.startswith("launch")]


def test_initialize_loads_and_execute_only_launches(on_fake_gpu):
    result = on_fake_gpu([[("initialize", 0, BOTH)]])
    assert result["errors"] == [[""]]
    loading = result["journal"]
    assert loading[0].split() == ["load"]
    assert "set 8 to 231424 device 0 " in loading  # all of shared memory: 232448 - 1024 static
    assert launches(result) == []
    result = on_fake_gpu([[("initialize", 0, BOTH), ("execute", 0, BOTH), ("execute", 0, BOTH)]])
    assert result["errors"] == [["", "", ""]]
    assert result["journal"][: len(loading)] == loading
    assert len(result["journal"]) == len(loading) + 2
    assert len(launches(result)) == 2


def test_each_device_is_prepared_once_and_launched_on_in_its_own_context(on_fake_gpu):
    calls = [("execute", device, BOTH) for device in (1, 0, 1, 2)]
    result = on_fake_gpu([calls], devices="90 90 90")
    assert result["errors"] == [[""] * 4]
    assert [line.split()[2:6] for line in launches(result)] == [
        ["device", str(device), "stream", str(device)] for device in (1, 0, 1, 2)
    ]
    lines = Counter(result["journal"])
    assert lines["load "] == 1
    for device in range(3):
        assert lines[f"prepare device {device} "] == 1
        assert lines[f"set 8 to 231424 device {device} "] == 1
    assert result["context_depths"] == [0]


def test_the_variant_follows_the_device(on_fake_gpu):
    result = on_fake_gpu([[("execute", 0, BOTH), ("execute", 1, BOTH)]], devices="90 103")
    assert result["errors"] == [["", ""]]
    assert Counter(result["journal"])["load "] == 2  # one library for each architecture


def test_threads_load_once(on_fake_gpu):
    calls = [("initialize", device, SM90) for device in (0, 1)] + [("execute", 1, SM90)]
    result = on_fake_gpu([calls] * 8, devices="90 90")
    assert result["errors"] == [["", "", ""]] * 8
    lines = Counter(result["journal"])
    assert lines["load "] == 1
    assert lines["prepare device 0 "] == lines["prepare device 1 "] == 1
    assert len(launches(result)) == 8
    assert result["context_depths"] == [0] * 8


def test_a_device_without_a_kernel_is_named_with_the_variants(on_fake_gpu):
    result = on_fake_gpu([[("initialize", 1, SM90), ("execute", 1, BOTH)]], devices="90 80")
    device = "runs on device 1 (Fake GPU, compute capability 8.0)"
    assert result["errors"] == [
        [
            f'9 jax_fa4_bwd_preprocess_v1: none of variants="{SM90}" {device}',
            f'9 jax_fa4_bwd_preprocess_v1: none of variants="{BOTH}" {device}',
        ]
    ]


@pytest.mark.parametrize("function", ["cuLibraryLoadData", "cuLibraryGetKernel"])
def test_a_failed_load_says_what_failed_and_is_tried_again(on_fake_gpu, function):
    result = on_fake_gpu([[("initialize", 0, SM90), ("execute", 0, SM90)]], fail=f"{function} 209")
    text = f"{SM90}: {function} failed: CUDA_ERROR_FAKE (209): a fake error"
    assert result["errors"] == [[f"13 jax_fa4_bwd_preprocess_v1: {text}"] * 2]
    assert launches(result) == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [(1, ""), (700, " (an earlier kernel on this device may have caused it)")],
)
def test_a_failed_launch_says_what_failed(on_fake_gpu, error, hint):
    result = on_fake_gpu([[("execute", 0, SM90)]], fail=f"cuLaunchKernelEx {error}")
    text = f"{SM90}: cuLaunchKernelEx failed: CUDA_ERROR_FAKE ({error}): a fake error{hint}"
    assert result["errors"] == [[f"13 jax_fa4_bwd_preprocess_v1: {text}"]]


def test_a_driver_that_does_not_start(on_fake_gpu):
    result = on_fake_gpu([[("initialize", 0, SM90)]], fail="cuInit 100")
    text = "the CUDA driver does not start: cuInit failed: CUDA_ERROR_FAKE (100): a fake error"
    assert result["errors"] == [[f"9 jax_fa4_bwd_preprocess_v1: {text}"]]
