"""Runs `jax_fa4.aot` where only the build requirements are installed.

`import jax_fa4` needs jax; an isolated build has none. This script puts a bare package in its
place, through which the build-time rooms (aot, kernels, variants) are found:

    python -P jax_fa4/aot/bootstrap.py --list
"""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def main() -> None:
    package = types.ModuleType("jax_fa4")
    package.__path__ = [str(PACKAGE)]
    sys.modules["jax_fa4"] = package
    runpy.run_module("jax_fa4.aot", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
