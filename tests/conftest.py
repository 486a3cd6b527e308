"""Tests run on the installed package; the checkout adds what wheels leave out.

The checkout comes last on the path: `jax_fa4` is the installed one, while its build-time and test
rooms (jax_fa4.aot, jax_fa4.kernels, jax_fa4.testing) and `benchmarks` are found here.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
