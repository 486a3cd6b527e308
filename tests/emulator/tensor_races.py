"""Kernels for the race rules of tensor memory (PTX ISA 9.7.16.6), and what a lost edge ends in.

A line that ends in `// NEEDS x` is an edge: without it the finding named `x` is due, with all of
them none is. Findings are given by level: at `ptx`, at `hardware`; None where the level asks for
no such edge. The name "" stands for a kernel that is wrong as it is.

Warps 0 and 4 reach the same lanes of tensor memory; D lies in columns 0 to 63 and 128 to 191,
A in columns 64 to 71.
"""

HEAD = """
.version 8.7
.target sm_100a
.address_size 64
.visible .entry kernel(.param .align 64 .b8 map[128], .param .u64 data)
.reqntid 256, 1, 1
{
  .shared .align 1024 .b8 image_a[4096];
  .shared .align 1024 .b8 image_b[2048];
  .shared .align 128 .b8 image_c[256];
  .shared .align 8 .b8 done[8];
  .shared .align 8 .b8 other[8];
  .shared .align 8 .b8 full[8];
  .shared .align 4 .b8 columns[4];
  .reg .pred p, yes, w0, w4, quadrants, leader, leader4;
  .reg .b32 tid, warp, at, d, d2, a, row, row2, arow, z, idesc, narrow, sum, v<8>;
  .reg .b64 adesc, bdesc, map_at, to;
  mov.u32 tid, %tid.x;
  shr.u32 warp, tid, 5;
  setp.eq.u32 w0, warp, 0;
  setp.eq.u32 w4, warp, 4;
  setp.lt.u32 quadrants, warp, 4;
  setp.eq.u32 leader, tid, 0;
  setp.eq.u32 leader4, tid, 128;
  setp.eq.u32 yes, tid, tid;
  mov.b32 z, 0;
  ld.param.u64 to, [data];
  mov.b64 map_at, map;
  cvta.param.u64 map_at, map_at;
  shl.b32 at, tid, 4;
  add.u32 sum, at, image_a;
  st.shared.v4.b32 [sum], {z, z, z, z};
  add.u32 sum, at, image_b;
  setp.lt.u32 p, tid, 128;
  @p st.shared.v4.b32 [sum], {z, z, z, z};
  fence.proxy.async.shared::cta;
  @leader mbarrier.init.shared.b64 [done], 1;
  @leader mbarrier.init.shared.b64 [other], 1;
  @leader mbarrier.init.shared.b64 [full], 1;
  @w0 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [columns], 256;
  bar.sync 0;
  ld.shared.b32 d, [columns];
  add.u32 d2, d, 128;
  add.u32 a, d, 64;
  and.b32 row, warp, 3;
  shl.b32 row, row, 21;
  add.u32 arow, row, a;
  add.u32 row2, row, d2;
  add.u32 row, row, d;
  mov.u32 at, image_a;
  and.b32 at, at, 0x3ffff;
  shr.u32 at, at, 4;
  mov.b64 adesc, {at, z};
  or.b64 adesc, adesc, 0x400800800000;
  mov.u32 at, image_b;
  and.b32 at, at, 0x3ffff;
  shr.u32 at, at, 4;
  mov.b64 bdesc, {at, z};
  or.b64 bdesc, bdesc, 0x400800400000;
  mov.u32 idesc, 0x8100490;
  mov.u32 narrow, 0x8080490;
  @!quadrants bra READY;
  FILL
  tcgen05.wait::st.sync.aligned;
  tcgen05.fence::before_thread_sync;
READY:
  bar.sync 0;
  tcgen05.fence::after_thread_sync;
"""
TAIL = """
  tcgen05.wait::ld.sync.aligned;
  tcgen05.wait::st.sync.aligned;
  tcgen05.fence::before_thread_sync;
  bar.sync 0;
  @w0 tcgen05.dealloc.cta_group::1.sync.aligned.b32 d, 256;
  ret;
}
"""

ZEROS = ", ".join(["z"] * 64)
VALUES = ", ".join(f"v{i}" for i in range(8))
MMA = "tcgen05.mma.cta_group::1.kind::f16"
COMMIT = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64"
SHORT = {
    "FILL": f"tcgen05.st.sync.aligned.32x32b.x64.b32 [row], {{{ZEROS}}};"
    f"tcgen05.st.sync.aligned.32x32b.x8.b32 [arow], {{{', '.join(['z'] * 8)}}};"
    f"tcgen05.st.sync.aligned.32x32b.x64.b32 [row2], {{{ZEROS}}};",
    "LOAD_2": f"tcgen05.ld.sync.aligned.32x32b.x8.b32 {{{VALUES}}}, [row2];",
    "LOAD": f"tcgen05.ld.sync.aligned.32x32b.x8.b32 {{{VALUES}}}, [row];",
    "STORE_A": f"tcgen05.st.sync.aligned.32x32b.x8.b32 [arow], {{{', '.join(['z'] * 8)}}};",
    "STORE": f"tcgen05.st.sync.aligned.32x32b.x8.b32 [row], {{{', '.join(['z'] * 8)}}};",
    "WAIT_LD": "tcgen05.wait::ld.sync.aligned;",
    "WAIT_ST": "tcgen05.wait::st.sync.aligned;",
    "BEFORE": "tcgen05.fence::before_thread_sync;",
    "AFTER": "tcgen05.fence::after_thread_sync;",
    "MMA_NARROW": f"{MMA} [d], adesc, bdesc, narrow, yes;",
    "MMA_TMEM": f"{MMA} [d], [a], bdesc, idesc, yes;",
    "MMA_2": f"{MMA} [d2], adesc, bdesc, idesc, yes;",
    "MMA": f"{MMA} [d], adesc, bdesc, idesc, yes;",
    "COMMIT_OTHER": f"{COMMIT} [other];",
    "COMMIT": f"{COMMIT} [done];",
    "USE": "add.u32 sum, v0, v7;",
    "TMA": "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes"
    " [image_b], [map_at, {z, z}], [full];",
}


def _await(barrier, who, order=""):
    # A block of its own, so that its labels are.
    return (
        f"{{ .reg .pred q; @!{who} bra SKIP;"
        f" AGAIN: mbarrier.try_wait.parity.{order}shared::cta.b64 q, [{barrier}], 0;"
        " @!q bra AGAIN; SKIP: }"
    )


for _barrier in ("done", "other", "full"):
    for _who in ("yes", "leader", "w4", "quadrants"):
        _name = ("" if _who == "yes" else f"{_who.upper()}_") + f"AWAIT_{_barrier.upper()}"
        SHORT[f"{_name}_RELAXED"] = _await(_barrier, _who, "relaxed.cluster.")
        SHORT[_name] = _await(_barrier, _who)

STORED = "race: .* not ordered after .*tcgen05.st.*(missing: a tcgen05.wait::st|has waited)"
LOADED = "race: .*write to tensor memory.*tcgen05.ld.*(missing: a tcgen05.wait::ld|has waited)"
MULTIPLIED = "race: .*tensor memory.*tcgen05.mma.*(missing: a wait for an mbarrier|has waited)"
OPERAND = "race: .*write to shared address.*tcgen05.mma.*missing: a wait for an mbarr"
BEFORE_ST = (
    "race: .*tcgen05.st.*(missing: a tcgen05.fence::before_thread_sync in warp 0|has waited)"
)
BEFORE_LD = (
    "race: .*tcgen05.ld.*(missing: a tcgen05.fence::before_thread_sync in warp 0|has waited)"
)
BEFORE_MMA = "race: .*tcgen05.mma"
AFTER = "race: .*missing: a tcgen05.fence::after_thread_sync"


def both(finding):
    return (finding, finding)


def strict(finding):
    """Asked for by the text alone."""
    return (finding, None)


def assemble(head, body, tail, short, without=None):
    """The kernel without the lines that end in `// NEEDS without`, its short words written out."""
    lines = [line for line in body.splitlines() if not line.endswith(f"// NEEDS {without}")]
    words = (head + "\n".join(lines) + tail).replace("\n", " \n ").split(" ")
    while not short.keys().isdisjoint(words):
        words = [part for word in words for part in short.get(word, word).split(" ")]
    return " ".join(words)


def text(body, without=None):
    return assemble(HEAD, body, TAIL, SHORT, without)
