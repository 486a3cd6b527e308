"""Which of the CuTe DSL's CUDA toolkits assembles a kernel: it carries one of CUDA 12, one of 13.

By itself it takes the newest that this machine's driver knows. What is built must not depend on
where, so here the architecture decides (`Arch.cuda_major`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_PACKAGE = "cutlass._mlir._mlir_libs"
_MODULE = f"{_PACKAGE}._cutlass_ir"


def use(major: int) -> None:
    """Make the DSL compile with this toolkit. Once per process, before it is imported."""
    if _MODULE in sys.modules:
        raise RuntimeError("the DSL is imported already, with a toolkit of its choice")
    dsl = importlib.util.find_spec("cutlass")
    if dsl is None or dsl.origin is None:
        raise ModuleNotFoundError("nvidia-cutlass-dsl is not installed")
    libraries = Path(dsl.origin).parent / "_mlir" / "_mlir_libs"
    files = list(libraries.glob(f"_cutlass_ir.cu{major}.*.so"))
    if not files:
        raise ModuleNotFoundError(
            f"nvidia-cutlass-dsl has no CUDA {major} toolkit here; install nvidia-cutlass-dsl[cu13]"
        )
    spec = importlib.util.spec_from_file_location(_MODULE, files[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The DSL's own choice is skipped where the module is there, and with it this attribute.
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    vars(importlib.import_module(_PACKAGE))["_cutlass_ir"] = module
