"""Runs jax's own attention tests with jax_fa4 in place of the function under test.

    git clone https://github.com/jax-ml/jax && git -C jax checkout jax-v0.10.2  # as installed
    python -m tests.ecosystem.jax_own_tests jax [--implementation emulator]

jax's `tests/nn_test.py` compares `jax.nn.dot_product_attention(implementation=None)`, which is its
reference, with `implementation="xla"` or "cudnn". The reference stays jax's; every other call is
ours, with its log-sum-exp as jax.nn has it: in query's dtype, without a gradient (ours is float32
and has one). What else fails is in DIFFERENCES, with the reason, or the command fails.
"""

from __future__ import annotations

import argparse
import sys
import unittest
from pathlib import Path
from typing import Any

import jax

import jax_fa4

# Name of a test -> why ours does not pass it.
DIFFERENCES = {
    "testDotProductAttentionFloat64MaskDebugInfs": "float64 is refused: sums are float32",
}


def replace(implementation: str) -> None:
    """jax.nn's function is ours but where a test asks for the reference."""
    reference = jax.nn.dot_product_attention

    def ours(*args: Any, **options: Any) -> Any:
        if options.get("implementation", implementation) is None:
            return reference(*args, **options)
        found = jax_fa4.dot_product_attention(*args, **options | {"implementation": implementation})
        if not options.get("return_residual"):
            return found
        return found[0], jax.lax.stop_gradient(found[1].astype(found[0].dtype))

    jax.nn.dot_product_attention = ours


def attention_tests(suite: Any) -> list[unittest.TestCase]:
    """The tests of a suite that are about attention."""
    if isinstance(suite, unittest.TestSuite):
        return [test for inner in suite for test in attention_tests(inner)]
    return [suite] if "DotProductAttention" in suite.id() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of jax, at the installed version")
    parser.add_argument("--implementation", choices=("xla", "emulator", "fa4"), default="xla")
    options = parser.parse_args()
    sys.argv[1:] = []  # jax's test module reads the command line
    sys.path.insert(0, str(options.checkout / "tests"))
    replace(options.implementation)
    found = attention_tests(unittest.defaultTestLoader.loadTestsFromName("nn_test"))
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(found))
    failed = result.failures + result.errors
    wrong = {test._testMethodName: text for test, text in failed}
    for name, text in wrong.items():
        print(f"{name}: {DIFFERENCES.get(name, 'NOT EXPECTED')}\n    {text.splitlines()[-1]}")
    unexpected = set(wrong) - set(DIFFERENCES)
    passed = result.testsRun - len(wrong) - len(result.skipped)
    print(f"jax {jax.__version__}: {passed} passed, {len(wrong)} failed ({len(unexpected)} of them")
    print(f"unexpectedly), {len(result.skipped)} skipped: those of cuDNN, where there is none")
    return 1 if unexpected or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
