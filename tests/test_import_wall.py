"""`import jax_fa4` loads jax and the runtime rooms: no build room, no optional library."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import jax_fa4

FORBIDDEN = (
    "cutlass",
    "torch",
    "flax",
    "matplotlib",
    "rich",
    "optax",
    "jax_fa4.aot",
    "jax_fa4.kernels",
    "jax_fa4.testing",
    "jax_fa4._ext",
)


def imported_by(code):
    """Those of FORBIDDEN that running `code` in a fresh interpreter imports."""
    script = textwrap.dedent(code) + (
        f"\nimport sys\nprint('found:', *[m for m in {FORBIDDEN!r} if m in sys.modules])\n"
    )
    where = str(Path(jax_fa4.__path__[0]).parent)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.append({where!r})\n{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split("found:")[1].split()


def test_import_stays_inside_the_wall():
    assert imported_by("import jax_fa4") == []


def test_using_the_portable_path_stays_inside_too():
    code = """
        import jax.numpy as jnp
        import jax_fa4
        x = jnp.ones((1, 4, 2, 8))
        jax_fa4.dot_product_attention(x, x, x, implementation="xla")
        jax_fa4.explain(x, x, x, implementation="xla")
    """
    assert imported_by(code) == []


def test_the_flax_adapter_needs_no_flax():
    assert imported_by("import jax_fa4.flax") == []


def test_the_emulator_of_cute_dsl_kernels_waits_for_its_user():
    assert imported_by("import jax_fa4.emulator.cute_dsl") == []


@pytest.mark.parametrize("module", FORBIDDEN)
def test_this_test_can_fail(module, tmp_path):
    """Each forbidden module is found when it is imported on purpose (a stand-in for it)."""
    stand_in = tmp_path / f"{module.split('.')[-1]}.py"
    stand_in.write_text("")
    code = f"""
        import importlib.util, sys
        import jax_fa4
        spec = importlib.util.spec_from_file_location({module!r}, {str(stand_in)!r})
        sys.modules[{module!r}] = importlib.util.module_from_spec(spec)
    """
    assert imported_by(code) == [module]


def test_the_variants_table_imports_neither_jax_nor_cutlass():
    code = """
        import sys, types
        package = types.ModuleType("jax_fa4")
        package.__path__ = PATH
        sys.modules["jax_fa4"] = package
        import jax_fa4.variants.select
        assert "jax" not in sys.modules and "numpy" not in sys.modules
    """
    assert imported_by(code.replace("PATH", repr(list(jax_fa4.__path__)))) == []


def test_the_public_names():
    assert {name for name in vars(jax_fa4) if not name.startswith("_")} >= {
        "dot_product_attention",
        "flash_attention",
        "flash_attention_varlen",
        "is_supported",
        "explain",
        "build_info",
        "ring_attention",
        "ulysses_attention",
        "context_parallel_attention",
        "to_layout",
        "from_layout",
        "layout_positions",
        "EXPORT_DISABLED_CHECKS",
        "CHECKPOINT_NAMES",
    }
    assert jax_fa4.__version__
