"""The build of all kernels: what is compiled, what is taken from the cache, what is reported."""

import json
import lzma
import os
import time

import pytest

from jax_fa4.aot import build, manifest
from jax_fa4.aot.build import Builder, CompileError
from jax_fa4.aot.cache import Cache, default_directory
from jax_fa4.variants import CATALOG

VARIANTS = CATALOG[:4]

KERNELS = {
    "main": {"registers": 168, "stack_bytes": 0},
    "tail": {"registers": 32, "stack_bytes": 8},
}


@pytest.fixture(autouse=True)
def dsl(monkeypatch):
    """The compiler is not installed where tests run."""
    monkeypatch.setattr(build, "dsl_version", lambda: "4.8.1")


class FakeCompiler:
    """Writes what a compiler would; remembers for whom, and fails for the names in `broken`."""

    def __init__(self, broken=()):
        self.broken = broken
        self.compiled = []

    def __call__(self, variant, directory):
        self.compiled.append(variant.name)
        if variant.name in self.broken:
            raise CompileError(f"error: {variant.name} does not fit")
        facts = {"name": variant.name, "init": "i", "load_to_device": "d", "launch": "l"}
        (directory / f"{variant.name}.json").write_text(json.dumps({**facts, "kernels": KERNELS}))
        (directory / f"{variant.name}.ptx").write_text(f"// {variant.name}")
        for suffix in (".o", ".h"):
            (directory / f"{variant.name}{suffix}").write_bytes(variant.name.encode())


def run(tmp_path, compiler, keys=lambda variant: f"key-{variant.name}", output="output"):
    """Builds VARIANTS; returns the failures and the lines reported."""
    lines = []
    builder = Builder(
        output=tmp_path / output,
        cache=Cache(tmp_path / "cache"),
        compiler=compiler,
        fingerprint=keys,
        jobs=2,
        report=lines.append,
    )
    return builder.build(VARIANTS), lines


def test_everything_is_compiled_once(tmp_path):
    first, second = FakeCompiler(), FakeCompiler()
    assert run(tmp_path, first)[0] == []
    assert sorted(first.compiled) == sorted(v.name for v in VARIANTS)
    assert run(tmp_path, second, output="other")[0] == []
    assert second.compiled == []
    for variant in VARIANTS:
        for suffix in (".o", ".h", ".ptx", ".json"):
            name = f"{variant.name}{suffix}"
            assert (tmp_path / "other" / name).read_bytes() == (
                tmp_path / "output" / name
            ).read_bytes()


def test_packed_ptx_is_the_ptx(tmp_path):
    (tmp_path / f"{VARIANTS[0].name}.ptx").write_text(".version 9.1\n" * 1000)
    build.pack_ptx(VARIANTS[0], tmp_path)
    packed = (tmp_path / f"{VARIANTS[0].name}.ptx.xz").read_bytes()
    assert lzma.decompress(packed).decode() == ".version 9.1\n" * 1000
    assert len(packed) < 200


def test_only_a_changed_variant_is_recompiled(tmp_path):
    run(tmp_path, FakeCompiler())
    compiler = FakeCompiler()
    changed = VARIANTS[2]
    run(tmp_path, compiler, keys=lambda v: f"key-{v.name}" + ("-new" if v == changed else ""))
    assert compiler.compiled == [changed.name]


def test_progress_counts_and_says_how(tmp_path):
    _, lines = run(tmp_path, FakeCompiler())
    assert [line.split()[0] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    cost = "s, 168 registers; 32 registers and 8 bytes of stack"
    assert all(" compiled in " in line and line.endswith(cost) for line in lines)
    _, lines = run(tmp_path, FakeCompiler())
    assert all(line.endswith("taken from the cache") for line in lines)


def test_a_failure_is_named_and_the_others_are_built(tmp_path):
    broken = VARIANTS[1].name
    failures, lines = run(tmp_path, FakeCompiler(broken=[broken]))
    assert [(f.variant.name, f.reason) for f in failures] == [
        (broken, f"error: {broken} does not fit")
    ]
    assert any(broken in line and line.endswith("FAILED") for line in lines)
    assert not (tmp_path / "output" / manifest.FILE_NAME).exists()
    again = FakeCompiler()
    assert run(tmp_path, again)[0] == []
    assert again.compiled == [broken]


def test_an_interrupted_store_leaves_no_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(build.Cache, "store", lambda *_: None)
    run(tmp_path, FakeCompiler())
    monkeypatch.undo()
    cache = Cache(tmp_path / "cache")
    cache.store(VARIANTS[0], "key", tmp_path / "nothing-here")
    assert not cache.fetch(VARIANTS[0], "key", tmp_path / "output")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert run(tmp_path, FakeCompiler())[0] == []


def test_what_no_build_asks_for_is_forgotten(tmp_path):
    run(tmp_path, FakeCompiler())
    month = 31 * 24 * 3600
    for entry in (tmp_path / "cache").iterdir():
        os.utime(entry, (time.time() - month, time.time() - month))
    used = VARIANTS[0]
    assert Cache(tmp_path / "cache").fetch(used, f"key-{used.name}", tmp_path / "output")
    Cache(tmp_path / "cache").forget_unused()
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [f"key-{used.name}"]


def test_a_damaged_entry_is_compiled_anew(tmp_path):
    run(tmp_path, FakeCompiler())
    damaged = VARIANTS[0].name
    (tmp_path / "cache" / f"key-{damaged}" / f"{damaged}.ptx.gz").write_bytes(b"not gzip")
    first, second = FakeCompiler(), FakeCompiler()
    assert run(tmp_path, first)[0] == run(tmp_path, second)[0] == []
    assert (first.compiled, second.compiled) == ([damaged], [])


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_FA4_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "jax_fa4"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "jax_fa4"
    monkeypatch.setenv("JAX_FA4_CACHE_DIR", str(tmp_path / "chosen"))
    assert default_directory() == tmp_path / "chosen"
