"""One variant -> one object file. Whatever changes the generated code is decided here, in
arguments.py, by what the tables say of the variant, or in the kernel's own sources; the
fingerprint covers exactly these.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

from jax_fa4.aot import toolkit
from jax_fa4.aot.arguments import fake_arguments
from jax_fa4.aot.kernel_classes import kernel_class_path
from jax_fa4.aot.signatures import signature
from jax_fa4.variants.variant import Variant

# Host code for any machine of the last decade, by processor; by default it is the build machine's.
HOST_TARGETS = {
    "x86_64": "llvm -mtriple=x86_64-unknown-linux-gnu -mcpu=x86-64-v2",
    "aarch64": "llvm -mtriple=aarch64-unknown-linux-gnu -mcpu=generic",
}

SYMBOL_PREFIX = "jax_fa4_"


def compile_options(variant: Variant, host: str = "x86_64") -> str:
    """Options of `cute.compile`. Line info changes no instruction, and findings name sources."""
    return (
        f"--gpu-arch {variant.arch.target} --host-target '{HOST_TARGETS[host]}' "
        "--keep-ptx --keep-cubin --generate-line-info"
    )


def without_folders(ptx: str) -> str:
    """The text with each source named from its package on: "jax_fa4/kernels/toolkit/masks.py"."""

    def shorten(match: re.Match[str]) -> str:
        parts = Path(match[2]).parts
        packages = [at for at, part in enumerate(parts) if part in ("jax_fa4", "cutlass")]
        return f'{match[1]}"{Path(*parts[packages[-1] :] if packages else parts[-1:])}"'

    return re.sub(r'^(\s*\.file\s+\d+\s+)"([^"]*)"', shorten, ptx, flags=re.MULTILINE)


def entry_point(header: str) -> str:
    """The name of the launching function that an exported header declares."""
    names = re.findall(r"void (_mlir_\w+__mlir_ciface_\w+)\(void \*\*args", header)
    if len(names) != 1:
        raise RuntimeError(f"expected one entry point in the exported header, found {names}")
    return str(names[0])


def compile_variant(variant: Variant, directory: Path, host: str = "x86_64") -> None:
    """Writes `<name>.o`, `.h`, `.ptx` and `.json` (facts of the kernel) into `directory`.

    The object's host code is for the processor `host`; its device code does not depend on it.

    Wants a process of its own: the compiler names its dump files after kernels, not variants.
    """
    os.environ["CUTE_DSL_DUMP_DIR"] = str(directory)
    toolkit.use(variant.arch.cuda_major)
    from cutlass import cute

    from jax_fa4.aot.cubin import kernel_facts

    module_name, class_name = kernel_class_path(variant).split(":")
    kernel: Any = getattr(importlib.import_module(module_name), class_name)(variant)
    arguments = fake_arguments(variant.dtype, signature(variant))
    options = compile_options(variant, host)
    compiled = cute.compile(kernel, *arguments, options=options)
    prefix = SYMBOL_PREFIX + variant.name
    compiled.export_to_c(str(directory), variant.name, prefix)
    (directory / f"{variant.name}.ptx").write_text(without_folders(compiled.__ptx__))
    header = (directory / f"{variant.name}.h").read_text()
    facts = {
        "name": variant.name,
        "init": f"_mlir_{prefix}_cuda_init",
        "load_to_device": f"_mlir_{prefix}_cuda_load_to_device",
        "launch": entry_point(header),
        "kernels": kernel_facts(compiled.__cubin__),
    }
    (directory / f"{variant.name}.json").write_text(json.dumps(facts, indent=2) + "\n")
