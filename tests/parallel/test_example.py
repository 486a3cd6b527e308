"""The worked example learns what only the whole sequence tells, on fake CPU devices."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "long_context.py"


def test_long_context():
    flags = (
        "--xla_force_host_platform_device_count=8"
        " --xla_cpu_collective_call_terminate_timeout_seconds=600"  # of busy machines
    )
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "8 devices as {'data': 2, 'context': 4}; 64 rows a device" in finished.stdout
    losses = [float(x) for x in re.findall(r"loss ([0-9.]+)", finished.stdout)]
    assert losses[-1] < 1.0 < losses[0]  # a guess among eight costs log 8 = 2.08
