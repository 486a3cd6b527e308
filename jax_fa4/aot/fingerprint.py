"""What a compiled variant depends on, as one hash: its sources, the compiler, the target.

Sources are found by reading `import` statements, not by importing, so that the answer costs
milliseconds and is the same under every Python. A change in one kernel's files changes the
fingerprints of that kernel's variants and of no other.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from jax_fa4.aot.compile import compile_options
from jax_fa4.aot.kernel_classes import kernel_class_path
from jax_fa4.aot.signatures import signature
from jax_fa4.variants.variant import Variant

PACKAGE_ROOT = Path(__file__).resolve().parents[1]

# Modules that take part in compiling every variant.
_COMMON = (
    "jax_fa4.aot.arguments",
    "jax_fa4.aot.compile",
    "jax_fa4.aot.toolkit",
    "jax_fa4.variants.words",
)

# What these say of one variant is hashed instead (`_facts`): what they say of others changes
# nothing.
_TABLES = frozenset(
    {"jax_fa4.aot.kernel_classes", "jax_fa4.aot.signatures", "jax_fa4.variants.variant"}
)


def dsl_version() -> str:
    """Version of the installed CuTe DSL."""
    return importlib.metadata.version("nvidia-cutlass-dsl")


def _module_file(module: str, root: Path) -> Path | None:
    """The file of a module of jax_fa4, None if there is no such module."""
    path = root.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imported_modules(file: Path, module: str) -> Iterable[str]:
    """Names that the file imports from jax_fa4; some may be objects rather than modules."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_packages(module: str) -> Iterable[str]:
    """The module and, for kernels, the packages around it, whose code runs when it is imported."""
    yield module
    parts = module.split(".")
    if parts[:2] == ["jax_fa4", "kernels"]:
        yield from (".".join(parts[:length]) for length in range(2, len(parts)))


def sources(variant: Variant, root: Path = PACKAGE_ROOT) -> list[Path]:
    """Every file of jax_fa4 that decides the variant's code, sorted."""
    kernel_module = kernel_class_path(variant).split(":")[0]
    if _module_file(kernel_module, root) is None:
        raise FileNotFoundError(f"{variant.name}: there is no module {kernel_module}")
    waiting = [*_COMMON, *_with_packages(kernel_module)]
    found: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        if module in found or module in _TABLES or not module.startswith("jax_fa4."):
            continue
        file = _module_file(module, root)
        if file is None:
            continue
        found[module] = file
        waiting += [
            name
            for imported in _imported_modules(file, module)
            for name in _with_packages(imported)
        ]
    return sorted(set(found.values()))


def fingerprint(variant: Variant, root: Path = PACKAGE_ROOT, host: str = "x86_64") -> str:
    """Hash of everything that decides the variant's object file, for hosts of that processor."""
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)

    add(*(fact.encode() for fact in _facts(variant, host)))
    for file in sources(variant, root):
        add(str(file.relative_to(root)).encode(), file.read_bytes())
    return digest.hexdigest()


def _facts(variant: Variant, host: str) -> tuple[str, ...]:
    """All that a variant's code depends on beside files. A field that a variant leaves at its
    default is left out, so that a new field changes the variants that set it.
    """
    chosen = {
        field.name: str(getattr(variant, field.name))
        for field in dataclasses.fields(variant)
        if getattr(variant, field.name) != field.default
    }
    arguments = [(argument.name, argument.kind.name) for argument in signature(variant)]
    return (
        f"{variant.name}: {type(variant).__name__}({chosen})",
        f"{arguments}",
        kernel_class_path(variant),
        compile_options(variant, host),
        dsl_version(),
    )


def combined(fingerprints: Iterable[str]) -> str:
    """One short hash for a whole build."""
    return hashlib.sha256(" ".join(sorted(fingerprints)).encode()).hexdigest()[:16]
