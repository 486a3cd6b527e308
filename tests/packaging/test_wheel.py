"""What the installed wheel contains, is called, and asks for."""

import importlib.metadata
import platform
import re
import sys
import zlib
from pathlib import PurePosixPath

import pytest

from jax_fa4 import _ext

BUILD_AND_TEST_ROOMS = ("aot", "kernels", "testing")


@pytest.fixture(scope="module")
def distribution():
    return importlib.metadata.distribution("jax_fa4")


@pytest.fixture(scope="module")
def files(distribution):
    """Paths in the wheel, without what installing it added."""
    return {
        PurePosixPath(str(file))
        for file in distribution.files
        if file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED", "direct_url.json")
    }


def test_tag(distribution):
    tags = re.findall(r"^Tag: (.+)$", distribution.read_text("WHEEL"), flags=re.MULTILINE)
    interpreter = "cp311-cp311" if sys.version_info < (3, 12) else "cp312-abi3"
    assert [tag.rsplit("-", 1)[0] for tag in tags] == [interpreter]
    # Built here it is for Linux; a published one says for which.
    assert re.search(rf"-(many)?linux(_\d+_\d+)?_{platform.machine()}$", tags[0])


def test_one_extension_of_the_tagged_abi(files):
    libraries = {file.name for file in files if file.suffix == ".so"} - {"libjax_fa4_cute_dsl.so"}
    (extension,) = libraries
    stable = "_ext.abi3.so"
    version_specific = f"_ext.cpython-311-{sys.implementation._multiarch}.so"
    assert extension == (version_specific if sys.version_info < (3, 12) else stable)


def test_run_time_rooms_only(files):
    package = {file for file in files if file.parts[0] == "jax_fa4"}
    assert {file.parts[1] for file in package}.isdisjoint(BUILD_AND_TEST_ROOMS)
    assert PurePosixPath("jax_fa4/_ext.pyi") in package
    assert {file.suffix for file in package} <= {".py", ".pyi", ".so", ".typed", ".xz"}


def test_the_emulator_has_the_ptx_of_every_kernel(files):
    packed = {file.name for file in files if file.suffix == ".xz" and file.parts[-2] == "ptx"}
    assert packed == {f"{name}.ptx.xz" for name in _ext.variant_names()}


def test_the_wheel_stays_small(distribution):
    files = (distribution.locate_file(file).read_bytes() for file in distribution.files)
    assert sum(len(zlib.compress(content)) for content in files) < 40e6, "compressed as in a wheel"


def test_nothing_outside_the_package(files):
    assert {file.parts[0] for file in files if ".dist-info" not in file.parts[0]} == {"jax_fa4"}


def test_licences_travel_along(files):
    assert {file.name for file in files if "licenses" in file.parts} == {"LICENSE", "NOTICE"}


def test_requirements(distribution):
    required = [line for line in distribution.requires if "extra ==" not in line]
    assert sorted(required) == ["jax>=0.9", "numpy"], "no upper pin; neither cutlass nor torch"
    assert distribution.metadata["Requires-Python"] == ">=3.11"
