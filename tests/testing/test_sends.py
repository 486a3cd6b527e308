"""The reading of compiled schedules, on lines as XLA writes them."""

from jax_fa4.testing import sends

SCHEDULE = """
ENTRY %main.3_spmd (param.21: bf16[1,1024,4,128]) -> bf16[1,1024,4,128] {
  %collective-permute-start.1 = ((bf16[8]), bf16[8]) collective-permute-start(%param), channel_id=1
  %call.1 = (bf16[8], f32[8]) custom-call(%param), custom_call_target="jax_fa4_fwd_v1"
  %collective-permute-done.1 = (bf16[8]) collective-permute-done(%collective-permute-start.1)
  %collective-permute.5 = bf16[8] collective-permute(%call.1), channel_id=1
  %ppermute.2 = ((bf16[8]), (bf16[8])) collective-permute-start(%call.1), channel_id=1
  %ppermute.3 = ((f32[8]), (f32[8])) collective-permute-start(%call.1), channel_id=1
  %done.3 = (f32[8]) collective-permute-done(%ppermute.3)
  %call.2 = bf16[8] custom-call(%call.1), custom_call_target="__cublas$gemm"
  %conditional.1 = bf16[8] conditional(%call.1), branch_computations={%a, %b}
  ROOT %done.2 = (bf16[8]) collective-permute-done(%ppermute.2)
}
"""


def test_beside_kernels():
    #       around a call, not asynchronous, around nothing, around a branch
    assert sends.beside_kernels(SCHEDULE) == [True, False, False, True]
