"""The runner of recorded launches on a GPU, with the emulator in the GPU's place."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import build
from launches import Recorder

HERE = Path(__file__).parent
GPU = HERE.parent / "gpu"
MISUSE = HERE / "ptx" / "misuse"


@pytest.fixture(scope="module")
def instructions(build_directory):
    """tests/gpu/instructions.py, whose driver is the fake one."""
    spec = importlib.util.spec_from_file_location("instructions", GPU / "instructions.py")
    module = sys.modules["instructions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fake = build(build_directory, "fake_driver.cc", "-shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_FA4_LIBCUDA", str(fake))
        yield module


@pytest.fixture
def recorder(run_ptx):
    return Recorder(run_ptx)


def recorded(recorder, tmp_path):
    from launches import load

    recorder.save(tmp_path / "launches")
    return load(tmp_path / "launches")


def text_of(name):
    return (HERE / "ptx" / f"{name}.ptx").read_text()


def loads_a_box(recorder, tensor_map, swizzle=0):
    tensor = np.arange(20 * 16, dtype=np.uint32).reshape(20, 16)
    described = tensor_map(5, "f32", (16, 20), (64,), (8, 4), swizzle)
    got = np.zeros((4, 8), np.uint32)
    at = np.int32(4), np.int32(-1)
    recorder(text_of("tensor_load_2d"), described, got, np.uint32(128), *at, tensor, shared=65600)


def test_agreement_and_difference(instructions, recorder, tensor_map, tmp_path):
    """Arrays, scalars, tensor maps, clusters and much shared memory reach the kernel."""
    loads_a_box(recorder, tensor_map)
    loads_a_box(recorder, tensor_map, 1)
    recorder(text_of("cluster"), np.zeros((4, 32), np.uint32), grid=(4, 1, 1), cluster=(2, 1, 1))
    words = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    recorder(text_of("widths_global"), np.zeros_like(words), words, block=(64, 1, 1))
    launches = recorded(recorder, tmp_path)
    assert len(launches) == 4
    wrong = dataclasses.replace(launches[3], expected={0: words ^ (words == 7), 1: words})
    blackwell = dataclasses.replace(launches[3], text=launches[3].text.replace("sm_90a", "sm_100a"))
    description, results = instructions.run_all([*launches, wrong, blackwell])
    verdicts = [result.verdict for result in results]
    assert verdicts == ["agree"] * 4 + ["differ", "skipped"], results
    assert "of 4096 elements" in results[4].detail
    text = instructions.table(description, results)
    assert "the emulator, driver for CUDA 13.0" in text
    assert "| **all** | 4 | 0 | 1 | 0 | 1 |" in text
    assert "skipped: 1 whose target needs sm_100a" in text


def test_a_parameter_of_several_values(instructions, recorder, tmp_path):
    """An array by value is as many arguments as the test likes; too few are refused."""
    halves = np.arange(4, dtype=np.uint64)
    scalars = np.uint32(1), np.uint64(2), np.uint8(3), *halves
    recorder(text_of("parameters"), np.zeros(16, np.uint32), *scalars, block=(1, 1, 1))
    (launch,) = recorded(recorder, tmp_path)
    short = dataclasses.replace(launch, arguments=launch.arguments[:-1])
    _, results = instructions.run_all([launch, short])
    assert [result.verdict for result in results] == ["agree", "failed"], results
    assert "7 values, not enough for 5 parameters" in results[1].detail


def test_an_encoding_of_its_own_is_a_difference(instructions, recorder, tensor_map, tmp_path):
    loads_a_box(recorder, tensor_map)
    (launch,) = recorded(recorder, tmp_path)
    described, *others = launch.arguments

    class Other(tensor_map):
        def encode(self, address):
            return super().encode(address + 16)

    other = Other(**dataclasses.asdict(described))
    cuda = instructions.driver.Driver()
    result = instructions.run(cuda, dataclasses.replace(launch, arguments=(other, *others)))
    assert result.verdict == "differ"
    assert "tensor map: driver" in result.detail


def test_a_lost_kernel_costs_itself_only(instructions, recorder, tmp_path, monkeypatch):
    """A hang, a fault and a text that does not compile; the launch after them runs."""
    recorder(text_of("cluster"), np.zeros((4, 32), np.uint32), grid=(4, 1, 1), cluster=(2, 1, 1))
    (launch,) = recorded(recorder, tmp_path)
    bad = [
        dataclasses.replace(launch, text=text, grid=(1, 1, 1), cluster=(1, 1, 1))
        for text in (
            (MISUSE / "runaway.ptx").read_text(),
            (MISUSE / "global_misaligned.ptx").read_text(),
            launch.text.replace("mapa", "mapb"),
        )
    ]
    monkeypatch.setattr(instructions, "SECONDS", 4.0)
    _, results = instructions.run_all([*bad, launch])
    assert [result.verdict for result in results] == ["failed"] * 3 + ["agree"]
    details = [result.detail for result in results]
    assert "did not end within 4 s" in details[0]
    assert "cuLaunchKernelEx" in details[1]
    assert "mapb" in details[2]


def test_the_same_launch_is_recorded_once(recorder, tmp_path):
    for seed in range(2):
        got = np.zeros((4, 32), np.uint32)
        recorder(text_of("cluster"), got, grid=(4, 1, 1), cluster=(2, 1, 1), seed=seed)
    (launch,) = recorded(recorder, tmp_path)
    np.testing.assert_array_equal(launch.expected[0], got)
    assert not launch.arguments[0].any()
