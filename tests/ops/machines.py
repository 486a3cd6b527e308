"""Machines that tests only pretend to be."""

from types import SimpleNamespace


def gpu(capability, name="NVIDIA Test"):
    return SimpleNamespace(id=0, device_kind=name, compute_capability=capability)
