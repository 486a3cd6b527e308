"""PTX of small kernels for the fifth-generation tensor cores."""

BYTES = 32768  # of each operand in shared memory

HEADER = """.version 8.7
.target sm_100a
.address_size 64
"""

# Pieces of the kernels' texts, for `format`.
# Word i of both operands from global to shared memory, a word a thread, in the loop COPY; `offset`
# is its place in bytes.
COPY_WORDS = """
  ld.param.u64 from, [a];
  add.u64 from, from, offset;
  ld.global.b32 word, [from];
  mov.u32 at, image_a;
  add.u32 at, at, i;
  st.shared.b32 [at], word;
  ld.param.u64 from, [b];
  add.u64 from, from, offset;
  ld.global.b32 word, [from];
  mov.u32 at, image_b;
  add.u32 at, at, i;
  st.shared.b32 [at], word;
  add.u32 i, i, 512;
  setp.lt.u32 p, i, {bytes};
  @p bra COPY;
"""
# The descriptors of both operands, completed by their addresses.
DESCRIPTORS = """
  ld.param.u64 a_desc, [a_layout];
  ld.param.u64 b_desc, [b_layout];
  mov.u32 at, image_a;
  and.b32 at, at, 0x3ffff;
  shr.u32 at, at, 4;
  cvt.u64.u32 start, at;
  or.b64 a_desc, a_desc, start;
  mov.u32 at, image_b;
  and.b32 at, at, 0x3ffff;
  shr.u32 at, at, 4;
  cvt.u64.u32 start, at;
  or.b64 b_desc, b_desc, start;
"""
# Eight columns of a thread's lane of tensor memory at `cell`, from and to global memory.
CELLS_FROM_GLOBAL = """
  ld.global.v4.b32 {{v0, v1, v2, v3}}, [from];
  ld.global.v4.b32 {{v4, v5, v6, v7}}, [from+16];
  tcgen05.st.sync.aligned.32x32b.x8.b32 [cell], {{v0, v1, v2, v3, v4, v5, v6, v7}};
"""
CELLS_TO_GLOBAL = """
  tcgen05.ld.sync.aligned.32x32b.x8.b32 {{v0, v1, v2, v3, v4, v5, v6, v7}}, [cell];
  tcgen05.wait::ld.sync.aligned;
  st.global.v4.b32 [to], {{v0, v1, v2, v3}};
  st.global.v4.b32 [to+16], {{v4, v5, v6, v7}};
"""

PRODUCT = (
    HEADER
    + """
.visible .entry product(
  .param .u64 a, .param .u64 b, .param .u64 out,
  .param .u64 a_layout, .param .u64 b_layout, .param .u32 shape_word, .param .u32 twice_word,
  .param .u32 keep_word)
.reqntid 128, 1, 1
{{
  .shared .align 1024 .b8 image_a[32768];
  .shared .align 1024 .b8 image_b[32768];
  .shared .align 8 .b8 done[8];
  .shared .align 4 .b8 columns[4];
  .reg .pred p, q, first, leader;
  .reg .b32 tid, warp, rank, i, word, d, at, row, shape, twice, keep, zero, v<32>;
  .reg .b64 from, to, offset, a_desc, b_desc, start;
  mov.u32 tid, %tid.x;
  mov.u32 rank, %cluster_ctarank;
  shr.u32 warp, tid, 5;
  setp.eq.u32 first, warp, 0;
  setp.eq.u32 leader, tid, 0;
  mov.b32 zero, 0;
  // The operands, word by word.
  shl.b32 i, tid, 2;
COPY:
  mul.wide.u32 offset, rank, {bytes};
  cvt.u64.u32 from, i;
  add.u64 offset, offset, from;
"""
    + COPY_WORDS
    + """
  @leader mbarrier.init.shared.b64 [done], 1;
  fence.mbarrier_init.release.cluster;
  {proxy_fence}
  @!first bra ALLOCATED;
  tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [columns], 512;
  tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;
ALLOCATED:
  bar.sync 0;
  ld.shared.b32 d, [columns];
  shl.b32 row, warp, 21;
  {store_a}
  tcgen05.fence::before_thread_sync;
  barrier.cluster.arrive;
  barrier.cluster.wait;
  tcgen05.fence::after_thread_sync;
  // Product by one thread of the pair or of the CTA.
  setp.eq.u32 p, rank, 0;
  and.pred p, p, leader;
  @!p bra ISSUED;
"""
    + DESCRIPTORS
    + """
  ld.param.u32 shape, [shape_word];
  ld.param.u32 twice, [twice_word];
  ld.param.u32 keep, [keep_word];
  tcgen05.mma.cta_group::{group}.kind::{kind} [d], {a}, b_desc, shape, 0;
  setp.eq.u32 q, twice, 0;
  @q bra COMMIT;
  setp.eq.u32 q, twice, 1;
  tcgen05.mma.cta_group::{group}.kind::{kind}.collector::a::discard
    [d], {a}, b_desc, shape, {{keep, zero, zero, zero{more}}}, q;
COMMIT:
  {commit}
ISSUED:
  mbarrier.try_wait.parity.shared.b64 p, [done], 0;
  @!p bra ISSUED;
  tcgen05.fence::after_thread_sync;
  // One row a thread, 32 columns at a time.
  ld.param.u64 to, [out];
  shl.b32 at, rank, 7;
  add.u32 at, at, tid;
  mul.wide.u32 offset, at, {out_pitch};
  add.u64 to, to, offset;
  add.u32 row, row, d;
  mov.b32 i, 0;
NEXT:
  tcgen05.ld.sync.aligned.32x32b.x32.b32 {{{values}}}, [row];
  tcgen05.wait::ld.sync.aligned;
  {stores}
  add.u32 row, row, 32;
  add.u64 to, to, 128;
  add.u32 i, i, 32;
  setp.lt.u32 p, i, {columns};
  @p bra NEXT;
  tcgen05.fence::before_thread_sync;
  barrier.cluster.arrive;
  barrier.cluster.wait;
  @first tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 d, 512;
  ret;
}}
"""
)

STORE_A = """
  ld.param.u64 from, [a];
  shl.b32 at, rank, 7;
  add.u32 at, at, tid;
  mul.wide.u32 offset, at, 32;
  add.u64 from, from, offset;
  ld.global.v4.b32 {v0, v1, v2, v3}, [from];
  ld.global.v4.b32 {v4, v5, v6, v7}, [from+16];
  add.u32 at, d, row;
  tcgen05.st.sync.aligned.32x32b.x8.b32 [at+256], {v0, v1, v2, v3, v4, v5, v6, v7};
  tcgen05.wait::st.sync.aligned;
"""

COMMITS = {
    1: "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [done];",
    2: "mov.b32 at, done; .reg .b16 all; mov.b16 all, 3;"
    "tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64"
    " [at], all;",
}


def product(*, columns, kind="f16", group=1, a_in_tensor_memory=False, **changes):
    """D[128 group, columns] = A B, of operands in memory as they shall lie in shared memory."""
    names = [f"v{i}" for i in range(32)]
    fields = {
        "bytes": BYTES,
        "kind": kind,
        "group": group,
        "columns": columns,
        "out_pitch": 4 * columns,
        "proxy_fence": "fence.proxy.async.shared::cta;",
        "store_a": STORE_A if a_in_tensor_memory else "",
        "a": "[d+256]" if a_in_tensor_memory else "a_desc",
        "more": ", zero" * 4 if group == 2 else "",
        "commit": COMMITS[group],
        "values": ", ".join(names),
        "stores": "\n  ".join(
            f"st.global.b32 [to+{4 * i}], {name};" for i, name in enumerate(names)
        ),
    } | changes
    return PRODUCT.format(**fields)
