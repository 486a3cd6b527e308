"""setmaxnreg: who must wait for registers, and who may not ask for them."""

import pytest

KERNEL = """
.version 8.6
.target sm_90a
.address_size 64
.shared .align 1024 .b8 memory[8192];
.visible .entry kernel()
{{
  .reg .pred consumes, q;
  .reg .b32 tid, at, z, v<32>;
  .reg .b64 desc;
  mov.u32 tid, %tid.x;
  mov.b32 z, 0;
  setp.ge.u32 consumes, tid, 128;
  shl.b32 at, tid, 4;
  add.u32 at, at, memory;
  st.shared.v4.b32 [at], {{z, z, z, z}};
  fence.proxy.async.shared::cta;
  bar.sync 0;
  {body}
  ret;
}}
"""
SPLIT = """
  @consumes bra CONSUMER;
  setmaxnreg.dec.sync.aligned.u32 {dec};
  ret;
CONSUMER:
  setmaxnreg.inc.sync.aligned.u32 {inc};
"""
ACCUMULATOR = ", ".join(f"v{i}" for i in range(32))
ZEROS = "\n".join(f"  mov.b32 v{i}, 0;" for i in range(32))
PRODUCT = f"""
{ZEROS}
  mov.u32 at, memory;
  and.b32 at, at, 0x3ffff;
  shr.u32 at, at, 4;
  mov.b64 desc, {{at, z}};
  or.b64 desc, desc, 0x800800000;
  setp.eq.u32 q, z, 1;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16
    {{{ACCUMULATOR}}}, desc, desc, q, 1, 1, 0, 0;
  wgmma.commit_group.sync.aligned;
"""
WAIT = "  wgmma.wait_group.sync.aligned 0;\n"
DEC = "  setmaxnreg.dec.sync.aligned.u32 64;\n"
# Warp 0 of a warpgroup asks for another number than the rest.
UNEQUAL = """
  setp.lt.u32 q, tid, 32;
  @q bra OTHER;
  setmaxnreg.dec.sync.aligned.u32 64;
  ret;
OTHER:
  setmaxnreg.dec.sync.aligned.u32 56;
"""
# 256 threads have 256 registers each at launch, 512 have 128. What one warpgroup gives back, others
# may take.
BODIES = {
    "given back and taken": (SPLIT.format(dec=24, inc=256), None),
    "never enough": (
        SPLIT.format(dec=120, inc=136),
        r"deadlock: (.|\n)*setmaxnreg.inc: waits for 256 registers; 0 are free",
    ),
    "dec to more": (DEC + DEC.replace("64", "72"), "setmaxnreg: .dec from 64 to 72"),
    "unequal": (UNEQUAL, "setmaxnreg: (56|64) registers where warp . of the same warpgroup asks"),
    "product, wait, dec": (PRODUCT + WAIT + DEC, None),
    "product, dec": (PRODUCT + DEC + WAIT, "setmaxnreg: registers belong to matrix products"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("completion", ["earliest", "latest", "random"])
def test_setmaxnreg(name, completion, run_ptx, finding):
    body, expected = BODIES[name]
    threads = 512 if name == "never enough" else 256
    how = {"block": (threads, 1, 1), "completion": completion}
    if expected is None:
        run_ptx(KERNEL.format(body=body), **how)
        return
    if name == "unequal":
        run_ptx(KERNEL.format(body=body), level="hardware", **how)
    with pytest.raises(finding, match=expected):
        run_ptx(KERNEL.format(body=body), **how)
