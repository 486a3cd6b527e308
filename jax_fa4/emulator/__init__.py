"""The compiled kernels without a GPU: their PTX runs on the CPU, checked at every step.

    out = jax_fa4.dot_product_attention(q, k, v, implementation="emulator")

For small problems: it is thousands of times slower than a GPU. What the kernel does wrong (a
deadlock, an access out of bounds, a read of memory that nothing wrote) is an exception that names
the instruction and its line. `record()` keeps what launches did, event by event;
`python -m jax_fa4.emulator` runs, counts and draws single kernels.
"""

from jax_fa4.emulator.programs import has_ptx as has_ptx
from jax_fa4.emulator.programs import load as load
from jax_fa4.emulator.programs import load_special_tables as load_special_tables
from jax_fa4.emulator.programs import ptx_of as ptx_of
from jax_fa4.emulator.recording import Instruction as Instruction
from jax_fa4.emulator.recording import Recording as Recording
from jax_fa4.emulator.recording import record as record
from jax_fa4.emulator.settings import Settings as Settings
from jax_fa4.emulator.settings import current as current
from jax_fa4.emulator.settings import options as options
