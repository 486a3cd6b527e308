"""python -m jax_fa4.aot: lists the kernel variants, or compiles them to object files."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from jax_fa4.aot import manifest
from jax_fa4.aot.build import Builder, compile_in_process, pack_ptx
from jax_fa4.aot.cache import Cache, default_directory
from jax_fa4.aot.compile import HOST_TARGETS, compile_variant
from jax_fa4.aot.fingerprint import dsl_version, fingerprint
from jax_fa4.variants import CATALOG, Arch, Variant, parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jax_fa4.aot", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the variants' names, and stop")
    parser.add_argument("--only", metavar="NAME", nargs="*", help="these variants, not all")
    parser.add_argument("--arch", choices=[arch.value for arch in Arch], help="one GPU family")
    parser.add_argument(
        "--host",
        choices=HOST_TARGETS,
        default="x86_64",
        help="processor of the code that launches kernels (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build/kernels"), metavar="DIR")
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_directory(),
        metavar="DIR",
        help="default: %(default)s",
    )
    parser.add_argument("--jobs", type=int, help="compilers at a time (default: one per core)")
    parser.add_argument(
        "--table",
        type=Path,
        metavar="TEMPLATE",
        help="also write what the extension's build needs: variant_table.cc from this template, "
        "and the PTX compressed",
    )
    parser.add_argument("--compile-one", metavar="NAME", help=argparse.SUPPRESS)
    return parser


def _chosen(only: list[str] | None, arch: str | None) -> tuple[Variant, ...]:
    names = {variant.name for variant in CATALOG} if only is None else set(only)
    unknown = sorted(names - {variant.name for variant in CATALOG})
    if unknown:
        raise ValueError(f"no such variant: {', '.join(unknown)}; --list shows them all")
    return tuple(
        variant
        for variant in CATALOG
        if variant.name in names and arch in (None, variant.arch.value)
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.compile_one:
        compile_variant(parse(options.compile_one), options.output, options.host)
        return 0
    try:
        variants = _chosen(options.only, options.arch)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(variant.name for variant in variants))
        return 0
    try:
        dsl_version()
    except PackageNotFoundError as error:
        print(f"{error}; pyproject.toml names the version that kernels need", file=sys.stderr)
        return 1
    return _build(variants, options)


def _build(variants: Sequence[Variant], options: argparse.Namespace) -> int:
    """Builds, and reports what failed; the exit status."""
    jobs = {} if options.jobs is None else {"jobs": options.jobs}
    builder = Builder(
        output=options.output,
        cache=Cache(options.cache),
        compiler=functools.partial(compile_in_process, host=options.host),
        fingerprint=functools.partial(fingerprint, host=options.host),
        **jobs,
    )
    failures = builder.build(variants)
    for failure in failures:
        print(f"\n{failure.variant.name}:\n{failure.reason}", file=sys.stderr)
    if failures:
        names = ", ".join(failure.variant.name for failure in failures)
        print(
            f"{len(failures)} of {len(variants)} variants failed: {names}",
            file=sys.stderr,
        )
        return 1
    if options.table is not None:
        text = manifest.table(manifest.read(options.output), options.table.read_text())
        (options.output / "variant_table.cc").write_text(text)
        for variant in variants:
            pack_ptx(variant, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
