"""Is a layer with our attention as close to exact as the library's own layer?"""

import numpy as np

from jax_fa4.testing import tolerances


def check(ours, theirs, exact):
    """Trees of arrays: errors against `exact` at most twice theirs, and the rule's floor."""
    names = [str(n) for n in range(len(exact))]
    values = {name: np.asarray(x, np.float64) for name, x in zip(names, exact, strict=True)}
    terms = {f"{name}_terms": np.abs(x).max(initial=0.0) for name, x in values.items()}
    found, plain = (
        {name: np.asarray(x) for name, x in zip(names, arrays, strict=True)}
        for arrays in (ours, theirs)
    )
    tolerances.check(found, values | terms, plain)
