"""A ring over two processes, as over two hosts: JAX's own runtime, with gloo between CPUs."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

HOST = Path(__file__).with_name("host.py")
SECONDS = 600  # a quiet machine needs eight


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(address, number, log):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, str(HOST), address, str(number)]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def wait(hosts):
    """Until all have ended or one has failed, for whom the others would wait long."""
    end = time.monotonic() + SECONDS
    while any(host.poll() is None for host in hosts) and time.monotonic() < end:
        if any(host.poll() for host in hosts):
            return
        time.sleep(0.1)


def test_two_processes(tmp_path):
    """Values and gradients of either form, each process having half of every array."""
    address = f"127.0.0.1:{free_port()}"
    logs = [tmp_path / f"host{number}.log" for number in range(2)]
    hosts = []
    try:
        for number, path in enumerate(logs):
            with path.open("w") as log:
                hosts.append(start(address, number, log))
        wait(hosts)
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    printed = [path.read_text() for path in logs]
    assert [host.returncode for host in hosts] == [0, 0], [text[-3000:] for text in printed]
    for text in printed:
        assert "ring zigzag: right" in text
        assert "ulysses contiguous: right" in text
