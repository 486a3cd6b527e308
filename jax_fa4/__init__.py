"""FlashAttention-4 for JAX."""

from pkgutil import extend_path

# In a checkout this package and the installed one complete each other: the extension module is
# only in the installed one, the build-time and test rooms (aot, kernels, testing) only in the
# checkout. Whichever is found first, all rooms are found.
__path__ = extend_path(__path__, __name__)
