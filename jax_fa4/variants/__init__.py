"""Which kernels exist, by name. Pure Python: imports neither jax nor cutlass."""

from jax_fa4.variants.catalog import BACKWARD_HEAD_DIMS as BACKWARD_HEAD_DIMS
from jax_fa4.variants.catalog import CATALOG as CATALOG
from jax_fa4.variants.catalog import DETERMINISTIC_HEAD_DIMS as DETERMINISTIC_HEAD_DIMS
from jax_fa4.variants.catalog import FORWARD_HEAD_DIMS as FORWARD_HEAD_DIMS
from jax_fa4.variants.variant import HALF_PRECISIONS as HALF_PRECISIONS
from jax_fa4.variants.variant import Arch as Arch
from jax_fa4.variants.variant import BackwardPostprocessVariant as BackwardPostprocessVariant
from jax_fa4.variants.variant import BackwardPreprocessVariant as BackwardPreprocessVariant
from jax_fa4.variants.variant import BackwardVariant as BackwardVariant
from jax_fa4.variants.variant import DecodeCombineVariant as DecodeCombineVariant
from jax_fa4.variants.variant import DecodeVariant as DecodeVariant
from jax_fa4.variants.variant import DType as DType
from jax_fa4.variants.variant import Form as Form
from jax_fa4.variants.variant import ForwardVariant as ForwardVariant
from jax_fa4.variants.variant import Variant as Variant
from jax_fa4.variants.variant import parse as parse
