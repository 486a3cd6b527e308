"""What a measurement ran on: GPU, driver, versions, clocks, date."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda12-plugin",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
    "jax-fa4",
    "flash-attn3-jax",
    "tokamax",
)
CLOCKS = (
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_smi(fields: tuple[str, ...]) -> dict[str, str]:
    """Those fields of the first GPU; empty where nvidia-smi does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in answer.stdout.strip().splitlines()[0].split(",")]
    return dict(zip(fields, values, strict=False))


def cpu_model() -> str:
    """As the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def vectors() -> str:
    """The widest of the extensions that the engine has code for."""
    flags = Path("/proc/cpuinfo").read_text()
    return next((name for name in ("avx512f", "avx2") if f" {name} " in flags), "baseline x86-64")


def command(arguments: Sequence[str], module: str = "attention") -> str:
    """The command line, with files by their names alone: folders mean nothing elsewhere."""
    words = [Path(word).name if "/" in word else word for word in arguments]
    return shlex.join(["python", "-m", f"benchmarks.{module}", *words])


def _build_info() -> dict[str, str]:
    try:
        module = importlib.import_module("jax_fa4")
        return {str(key): str(value) for key, value in module.build_info().items()}
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return {"unavailable": f"{type(error).__name__}: {error}"}


def describe() -> dict[str, Any]:
    """Everything that a reader needs to repeat or to doubt a number."""
    device = jax.devices()[0]
    return {
        "gpu": device.device_kind,
        "platform": device.platform,
        "compute_capability": getattr(device, "compute_capability", None),
        "devices": jax.device_count(),
        "driver": nvidia_smi(("driver_version",)).get("driver_version"),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "jax_fa4_build": _build_info(),
        "clocks_at_start": nvidia_smi(CLOCKS),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv[1:]),
    }
