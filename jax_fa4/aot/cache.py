"""Compiled variants kept between builds, by fingerprint: a build compiles only what changed."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import time
from pathlib import Path

from jax_fa4.variants.variant import Variant

ENVIRONMENT_VARIABLE = "JAX_FA4_CACHE_DIR"

# What a compiled variant consists of; PTX is large, and compresses well.
_PLAIN = (".o", ".h", ".json")
_COMPRESSED = ".ptx"

_KEPT_SECONDS = 30 * 24 * 3600


def default_directory() -> Path:
    """$JAX_FA4_CACHE_DIR, or jax_fa4 in the user's cache directory."""
    if chosen := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "jax_fa4"


class Cache:
    """A directory of compiled variants. Several builds may use it at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fetch(self, variant: Variant, fingerprint: str, output: Path) -> bool:
        """Copies the variant's files into `output`; False if they are not in the cache."""
        entry = self.directory / fingerprint
        try:
            for suffix in _PLAIN:
                name = f"{variant.name}{suffix}"
                shutil.copyfile(entry / name, output / name)
            with gzip.open(entry / f"{variant.name}{_COMPRESSED}.gz") as packed:
                (output / f"{variant.name}{_COMPRESSED}").write_bytes(packed.read())
            os.utime(entry)  # in use, so not to be forgotten
        except OSError:
            shutil.rmtree(entry, ignore_errors=True)  # absent, or damaged
            return False
        return True

    def store(self, variant: Variant, fingerprint: str, compiled: Path) -> None:
        """Keeps the variant's files from the directory `compiled`: all of them or none.

        A cache that cannot be written is no reason to fail a build.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            entry = Path(tempfile.mkdtemp(prefix="storing-", dir=self.directory))
        except OSError:
            return
        try:
            for suffix in _PLAIN:
                name = f"{variant.name}{suffix}"
                shutil.copyfile(compiled / name, entry / name)
            text = (compiled / f"{variant.name}{_COMPRESSED}").read_bytes()
            packed = entry / f"{variant.name}{_COMPRESSED}.gz"
            packed.write_bytes(gzip.compress(text, mtime=0))
            os.rename(entry, self.directory / fingerprint)
        except OSError:  # a full disk, or another build was faster
            shutil.rmtree(entry, ignore_errors=True)

    def forget_unused(self) -> None:
        """Removes what no build has asked for in a month."""
        try:
            for entry in self.directory.iterdir():
                if entry.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
        except OSError:
            return
