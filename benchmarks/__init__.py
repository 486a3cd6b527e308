"""Measure jax_fa4 beside its peers. The command is `python -m benchmarks.attention`.

`python -m` puts the checkout first on the path, where jax_fa4 has no compiled kernels.
The installed package must win, and only its `testing` comes from the checkout, since
wheels leave that out.
"""

import importlib
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _ROOT] + [str(_ROOT)]

_search = importlib.import_module("jax_fa4").__path__
if str(_ROOT / "jax_fa4") not in list(_search):
    _search.append(str(_ROOT / "jax_fa4"))
