"""Many variants -> object files and a manifest: what is cached is copied, the rest compiled in
parallel, each in a process of its own.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_fa4.aot import manifest
from jax_fa4.aot.cache import Cache
from jax_fa4.aot.fingerprint import combined, dsl_version, fingerprint
from jax_fa4.variants.variant import Variant

# Writes the files of a variant into a directory; raises CompileError with the reason.
Compiler = Callable[[Variant, Path], None]

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")


class CompileError(Exception):
    """A variant does not compile. The text is the compiler's."""


def compile_in_process(variant: Variant, directory: Path, host: str = "x86_64") -> None:
    """Compiles one variant in a new Python process, in an otherwise empty directory."""
    command = [sys.executable, "-P", str(_BOOTSTRAP), "--compile-one", variant.name]
    command += ["-o", str(directory), "--host", host]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    if finished.returncode != 0:
        raise CompileError(finished.stdout + finished.stderr)


def pack_ptx(variant: Variant, directory: Path) -> None:
    """Writes `<name>.ptx.xz`, which the wheel carries for the emulator, from `<name>.ptx`."""
    text = (directory / f"{variant.name}.ptx").read_bytes()
    (directory / f"{variant.name}.ptx.xz").write_bytes(lzma.compress(text))


@dataclass(frozen=True)
class Failure:
    """A variant that did not compile, and why."""

    variant: Variant
    reason: str


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Where compiled variants go and come from."""

    output: Path
    cache: Cache
    compiler: Compiler = compile_in_process
    fingerprint: Callable[[Variant], str] = fingerprint
    jobs: int = os.cpu_count() or 1
    report: Callable[[str], None] = lambda line: print(line, flush=True)

    def build(self, variants: Sequence[Variant]) -> list[Failure]:
        """Builds all variants and the manifest; the list of failures is empty on success."""
        self.output.mkdir(parents=True, exist_ok=True)
        failures: list[Failure] = []
        fingerprints: dict[Variant, str] = {}
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            waiting = {pool.submit(self._build_one, variant): variant for variant in variants}
            for done, future in enumerate(as_completed(waiting), start=1):
                variant = waiting[future]
                progress = f"[{done}/{len(variants)}] {variant.name}"
                try:
                    fingerprints[variant], how = future.result()
                    self.report(f"{progress} {how}")
                except (CompileError, OSError) as error:
                    failures.append(Failure(variant, str(error)))
                    self.report(f"{progress} FAILED")
        self.cache.forget_unused()
        if not failures:
            manifest.write(self._manifest(variants, fingerprints), self.output)
        return failures

    def _build_one(self, variant: Variant) -> tuple[str, str]:
        """The variant's fingerprint, and how its files came into the output directory."""
        key = self.fingerprint(variant)
        if self.cache.fetch(variant, key, self.output):
            return key, "taken from the cache"
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{variant.name}-") as directory:
            self.compiler(variant, Path(directory))
            seconds = time.monotonic() - start
            self.cache.store(variant, key, Path(directory))
            for suffix in (".o", ".h", ".json", ".ptx"):
                name = f"{variant.name}{suffix}"
                (self.output / name).write_bytes((Path(directory) / name).read_bytes())
        return key, f"compiled in {seconds:.1f} s, {self._cost(variant)}"

    def _facts(self, variant: Variant) -> dict[str, Any]:
        """What the compiler left in the variant's .json file: the fields of manifest.Entry."""
        facts: dict[str, Any] = json.loads((self.output / f"{variant.name}.json").read_text())
        return facts

    def _cost(self, variant: Variant) -> str:
        """Registers and stack of the variant's kernels, as progress shows them."""
        costs = [
            f"{kernel['registers']} registers"
            + (f" and {kernel['stack_bytes']} bytes of stack" if kernel["stack_bytes"] else "")
            for kernel in self._facts(variant)["kernels"].values()
        ]
        return "; ".join(costs)

    def _manifest(
        self, variants: Sequence[Variant], fingerprints: dict[Variant, str]
    ) -> manifest.Manifest:
        entries = [
            manifest.Entry(fingerprint=fingerprints[variant], **self._facts(variant))
            for variant in variants
        ]
        return manifest.Manifest(
            cutlass_dsl_version=dsl_version(),
            fingerprint=combined(fingerprints.values()),
            entries=tuple(entries),
        )
