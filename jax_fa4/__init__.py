"""FlashAttention-4 for JAX: compiled kernels for Hopper and Blackwell, portable code elsewhere.

import jax_fa4
out = jax_fa4.dot_product_attention(q, k, v, is_causal=True)   # jax.nn's names and semantics
out, lse = jax_fa4.flash_attention(q, k, v, causal=True, return_lse=True)
"""

from pkgutil import extend_path as _extend_path

from jax.export import DisabledSafetyCheck as _DisabledSafetyCheck

from jax_fa4 import emulator as emulator
from jax_fa4.ffi import TARGETS as _TARGETS
from jax_fa4.ops.attention import dot_product_attention as dot_product_attention
from jax_fa4.ops.core import CHECKPOINT_NAMES as CHECKPOINT_NAMES
from jax_fa4.ops.decode.attention import decode_attention as decode_attention
from jax_fa4.ops.decode.cache import append_to_cache as append_to_cache
from jax_fa4.ops.decode.inquiry import explain_decode as explain_decode
from jax_fa4.ops.flash import flash_attention as flash_attention
from jax_fa4.ops.inquiry import backward_workspace_bytes as backward_workspace_bytes
from jax_fa4.ops.inquiry import build_info as build_info
from jax_fa4.ops.inquiry import explain as explain
from jax_fa4.ops.inquiry import is_supported as is_supported
from jax_fa4.ops.inquiry import version as _version
from jax_fa4.ops.varlen import flash_attention_varlen as flash_attention_varlen
from jax_fa4.parallel.attention import ring_attention as ring_attention
from jax_fa4.parallel.layouts import from_layout as from_layout
from jax_fa4.parallel.layouts import layout_positions as layout_positions
from jax_fa4.parallel.layouts import to_layout as to_layout
from jax_fa4.parallel.sharded import context_parallel_attention as context_parallel_attention
from jax_fa4.parallel.ulysses import ulysses_attention as ulysses_attention

__version__ = _version()

# For jax.export.export(..., disabled_checks=EXPORT_DISABLED_CHECKS): the custom calls' names
# carry a version, which is the guarantee that the check asks for.
EXPORT_DISABLED_CHECKS = [_DisabledSafetyCheck.custom_call(target) for target in _TARGETS]

# A checkout and the installed package complete each other: the extension is in the installed one
# alone, the build-time and test rooms (aot, kernels, testing) are in the checkout alone. Whichever
# of the two Python finds first, all rooms are found.
__path__ = _extend_path(__path__, __name__)
