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
FORWARD = "fwd_sm90_bf16_d64"
SM100 = "bwd_preprocess_sm100_bf16"
BOTH = f"{SM90} {SM100}"
BACKWARD = "bwd_sm90_bf16_d64"


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
    """Makes calls in a new process: a list of threads, each a list of calls."""

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


def preprocess(stage="execute", device=0, variants=BOTH, data=0x10000):
    """A call of jax_fa4_bwd_preprocess_v1 on the device's stream; `data` is the address of dout."""
    elements, rows = ("bf16", (1, 4, 2, 64)), ("fp32", (1, 2, 4), 0x10000)
    return {
        "target": "jax_fa4_bwd_preprocess_v1",
        "stage": stage,
        "device": device,
        "variants": variants,
        "arguments": [(*elements, 0x10000), (*elements, data), rows, rows],
        "results": scratch(1, 2, 128),
        "scalars": [],
    }


def scratch(batch, heads, rows):
    padded = ("fp32", (batch, heads, rows), 0x10000)
    sums = ("fp32", (batch, heads, rows, 64), 0x10000)
    return [padded, padded, sums, ("int32", (batch, heads, rows // 64), 0x10000)]


def backward(stage="execute", device=0, dq_data=0x10000):
    """A call of jax_fa4_bwd_v1 on the device's stream; `dq_data` is the address of dq."""
    query, key = ("bf16", (2, 200, 4, 64), 0x10000), ("bf16", (2, 300, 2, 64), 0x10000)
    rows = ("fp32", (2, 4, 200), 0x10000)
    return {
        "target": "jax_fa4_bwd_v1",
        "stage": stage,
        "device": device,
        "variants": BACKWARD,
        "arguments": [query, key, key, query, query, rows, rows],
        "results": [(*query[:2], dq_data), key, key, *scratch(2, 4, 256)],
        "scalars": [0.125, -(2**30), 2**30],
    }


def forward(device=0, seqlen_k=300):
    """A call of jax_fa4_fwd_v1 on the device's stream."""
    query, key = ("bf16", (2, 200, 4, 64), 0x10000), ("bf16", (2, seqlen_k, 2, 64), 0x10000)
    return {
        "target": "jax_fa4_fwd_v1",
        "stage": "execute",
        "device": device,
        "variants": FORWARD,
        "arguments": [query, key, key],
        "results": [query, ("fp32", (2, 4, 200), 0x10000)],
        "scalars": [0.125, -(2**30), 2**30],
    }


def launches(result):
    return [line for line in result["journal"] if line.startswith("launch")]


def test_initialize_loads_and_execute_only_launches(on_fake_gpu):
    result = on_fake_gpu([[preprocess("initialize", 0, BOTH)]])
    assert result["errors"] == [[""]]
    loading = result["journal"]
    assert loading[0].split() == ["load"]
    assert "set 8 to 231424 device 0 " in loading  # all of shared memory: 232448 - 1024 static
    assert launches(result) == []
    result = on_fake_gpu(
        [
            [
                preprocess("initialize", 0, BOTH),
                preprocess("execute", 0, BOTH),
                preprocess("execute", 0, BOTH),
            ]
        ]
    )
    assert result["errors"] == [["", "", ""]]
    assert result["journal"][: len(loading)] == loading
    assert len(result["journal"]) == len(loading) + 2
    assert len(launches(result)) == 2


def test_each_device_is_prepared_once_and_launched_on_in_its_own_context(on_fake_gpu):
    calls = [preprocess("execute", device, BOTH) for device in (1, 0, 1, 2)]
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
    result = on_fake_gpu(
        [[preprocess("execute", 0, BOTH), preprocess("execute", 1, BOTH)]], devices="90 103"
    )
    assert result["errors"] == [["", ""]]
    assert Counter(result["journal"])["load "] == 2  # one library for each architecture


def test_threads_load_once(on_fake_gpu):
    calls = [preprocess("initialize", device, SM90) for device in (0, 1)] + [
        preprocess("execute", 1, SM90)
    ]
    result = on_fake_gpu([calls] * 8, devices="90 90")
    assert result["errors"] == [["", "", ""]] * 8
    lines = Counter(result["journal"])
    assert lines["load "] == 1
    assert lines["prepare device 0 "] == lines["prepare device 1 "] == 1
    assert len(launches(result)) == 8
    assert result["context_depths"] == [0] * 8


def test_a_device_without_a_kernel_is_named_with_the_variants(on_fake_gpu):
    result = on_fake_gpu(
        [[preprocess("initialize", 1, SM90), preprocess("execute", 1, BOTH)]], devices="90 80"
    )
    device = "runs on device 1 (Fake GPU, compute capability 8.0)"
    assert result["errors"] == [
        [
            f'9 jax_fa4_bwd_preprocess_v1: none of variants="{SM90}" {device}',
            f'9 jax_fa4_bwd_preprocess_v1: none of variants="{BOTH}" {device}',
        ]
    ]


@pytest.mark.parametrize("function", ["cuLibraryLoadData", "cuLibraryGetKernel"])
def test_a_failed_load_says_what_failed_and_is_tried_again(on_fake_gpu, function):
    result = on_fake_gpu(
        [[preprocess("initialize", 0, SM90), preprocess("execute", 0, SM90)]],
        fail=f"{function} 209",
    )
    text = f"{SM90}: {function} failed: CUDA_ERROR_FAKE (209): a fake error"
    assert result["errors"] == [[f"13 jax_fa4_bwd_preprocess_v1: {text}"] * 2]
    assert launches(result) == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [(1, ""), (700, " (an earlier kernel on this device may have caused it)")],
)
def test_a_failed_launch_says_what_failed(on_fake_gpu, error, hint):
    result = on_fake_gpu([[preprocess("execute", 0, SM90)]], fail=f"cuLaunchKernelEx {error}")
    text = f"{SM90}: cuLaunchKernelEx failed: CUDA_ERROR_FAKE ({error}): a fake error{hint}"
    assert result["errors"] == [[f"13 jax_fa4_bwd_preprocess_v1: {text}"]]


def test_a_driver_that_does_not_start(on_fake_gpu):
    result = on_fake_gpu([[preprocess("initialize", 0, SM90)]], fail="cuInit 100")
    text = "the CUDA driver does not start: cuInit failed: CUDA_ERROR_FAKE (100): a fake error"
    assert result["errors"] == [[f"9 jax_fa4_bwd_preprocess_v1: {text}"]]


def test_the_forward_kernel_is_launched_with_its_shared_memory(on_fake_gpu):
    result = on_fake_gpu([[forward(device=1)]], devices="80 90")
    assert result["errors"] == [[""]]
    (launch,) = launches(result)
    words = launch.split()
    assert words[2:6] == ["device", "1", "stream", "1"]
    assert int(words[words.index("shared") + 1]) > 48 * 1024


def test_the_backward_is_three_launches_in_order_on_one_stream(on_fake_gpu):
    """Told apart by their blocks and shared memory: 256 threads, the main kernel's, 128."""
    result = on_fake_gpu([[backward(device=1)]], devices="80 90")
    assert result["errors"] == [[""]]
    words = [line.split() for line in launches(result)]
    assert [w[2:6] for w in words] == [["device", "1", "stream", "1"]] * 3
    blocks, shared = ([int(w[w.index(name) + 1]) for w in words] for name in ("block", "shared"))
    assert (blocks[0], blocks[2]) == (256, 128)
    assert shared[1] == max(shared) > 48 * 1024
    assert result["context_depths"] == [0]


def test_initialize_loads_all_kernels_of_the_backward(on_fake_gpu):
    loading = on_fake_gpu([[backward("initialize")]])
    assert loading["errors"] == [[""]]
    assert launches(loading) == []
    assert Counter(loading["journal"])["load "] == 3
    result = on_fake_gpu([[backward("initialize"), backward(), backward()]])
    assert result["errors"] == [["", "", ""]]
    assert Counter(result["journal"])["load "] == 3
    assert result["journal"][: len(loading["journal"])] == loading["journal"]
    assert len(result["journal"]) == len(loading["journal"]) + 6
    assert len(launches(result)) == 6


def test_threads_run_the_backward_and_load_once(on_fake_gpu):
    calls = [backward("initialize", 1), backward(device=0), backward(device=1)]
    result = on_fake_gpu([calls] * 8, devices="90 90")
    assert result["errors"] == [["", "", ""]] * 8
    assert Counter(result["journal"])["load "] == 3
    assert len(launches(result)) == 8 * 2 * 3


@pytest.mark.parametrize("stage", ["initialize", "execute"])
def test_a_backward_without_a_kernel_for_the_device(on_fake_gpu, stage):
    result = on_fake_gpu([[backward(stage)]], devices="80")
    text = f'none of variants="{BACKWARD}" runs on device 0 (Fake GPU, compute capability 8.0)'
    assert result["errors"] == [[f"9 jax_fa4_bwd_v1: {text}"]]


def test_a_failed_launch_ends_the_backward(on_fake_gpu):
    result = on_fake_gpu([[backward()]], fail="cuLaunchKernelEx 700")
    text = f"{SM90}: cuLaunchKernelEx failed: CUDA_ERROR_FAKE (700): a fake error"
    assert result["errors"][0][0].startswith(f"13 jax_fa4_bwd_v1: {text}")
    assert len(launches(result)) == 1


def test_an_unaligned_buffer_is_refused(on_fake_gpu):
    result = on_fake_gpu([[preprocess(data=0x10008)]])
    assert result["errors"] == [
        [
            "3 jax_fa4_bwd_preprocess_v1: dout bf16(1, 4, 2, 64): "
            "address 0x10008 is not aligned to 16 bytes"
        ]
    ]
    result = on_fake_gpu([[backward(dq_data=0x10008)]])
    assert result["errors"] == [
        ["3 jax_fa4_bwd_v1: dq bf16(2, 200, 4, 64): address 0x10008 is not aligned to 16 bytes"]
    ]


def test_sequences_too_long_for_32_bits_are_refused(on_fake_gpu):
    result = on_fake_gpu([[forward(seqlen_k=2**30), forward(seqlen_k=2**31)]])
    assert result["errors"] == [
        [
            "3 jax_fa4_fwd_v1: q bf16(2, 200, 4, 64), k bf16(2, 1073741824, 2, 64): "
            "sequence lengths must be less than 2**30",
            "3 jax_fa4_fwd_v1: k bf16(2, 2147483648, 2, 64): "
            "every dimension must be from 1 to 2147483647",
        ]
    ]


def test_handlers_may_be_captured_into_cuda_graphs(on_fake_gpu):
    compatible = 1
    names = ("fwd", "fwd_fp8", "fwd_bounded", "bwd", "bwd_bounded", "bwd_preprocess", "decode")
    assert on_fake_gpu([[]])["traits"] == {f"jax_fa4_{name}_v1": compatible for name in names}
