"""Strict by default: warnings are errors, ranks never promote, eight CPU devices.

Tests run on the installed package; the checkout adds what wheels leave out. It comes last
on the path: `jax_fa4` is the installed one where there is one, while its build-time and test
rooms (jax_fa4.aot, jax_fa4.kernels, jax_fa4.testing) and `benchmarks` are found here.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Of busy machines, where a device's thread may wait long for its turn; 40 by default.
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    # Most of a test's time is compiling for the CPU; light optimisation halves it.
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# Threads of XLA on the CPU: devices wait for each other in them, in several collectives at a time.
os.environ.setdefault("PJRT_NPROC", "32")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402
import pytest  # noqa: E402

import jax_fa4  # noqa: E402
from jax_fa4 import ffi  # noqa: E402
from jax_fa4.ops import selection  # noqa: E402
from jax_fa4.variants import CATALOG  # noqa: E402

if str(CHECKOUT / "jax_fa4") not in jax_fa4.__path__:
    jax_fa4.__path__.append(str(CHECKOUT / "jax_fa4"))

jax.config.update("jax_numpy_rank_promotion", "raise")
# On a GPU float32 products would be TF32: right, but not to compare closely.
jax.config.update("jax_default_matmul_precision", "float32")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    # Flax's own use of JAX, and of its older names.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:flax")


def pytest_xdist_auto_num_workers():
    """As many as cores that this process may use; none beside it where tests share a GPU."""
    if selection.cuda_devices() or os.environ.get("JAX_FA4_REQUIRE_GPU"):
        return 0
    return len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items):
    # JAX_FA4_REQUIRE_GPU=1 is for machines that must have one: there nothing is skipped.
    if selection.cuda_devices() or os.environ.get("JAX_FA4_REQUIRE_GPU"):
        return
    skip = pytest.mark.skip(reason="NOT TESTED HERE, needs a GPU: JAX sees no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def no_gpu(monkeypatch):
    """JAX sees no CUDA device, whatever the machine has."""
    monkeypatch.setattr(selection, "cuda_devices", lambda: ())


@pytest.fixture
def hopper(monkeypatch):
    """JAX sees one H100 and the build has every kernel, as far as choosing a path goes."""
    device = SimpleNamespace(id=0, device_kind="NVIDIA H100", compute_capability="9.0")
    monkeypatch.setattr(selection, "cuda_devices", lambda: (device,))
    monkeypatch.setattr(selection, "driver_cuda_version", lambda: (13, 0))
    monkeypatch.setattr(ffi, "built_variants", lambda: frozenset(v.name for v in CATALOG))
    monkeypatch.setattr(ffi, "register", lambda: None)


@pytest.fixture(params=["xla", pytest.param("fa4", marks=pytest.mark.gpu)])
def implementation(request):
    """Each path in turn: the kernel only where there is a GPU."""
    return request.param
