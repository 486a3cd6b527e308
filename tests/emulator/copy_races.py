"""Kernels for the race rules of asynchronous copies, atomics and clusters; see tensor_races.py.

Shared memory `one` and `two` are 1 KiB each and hold zeros. Warps 0 and 1; `leader` is the first
thread of warp 0, `other` of warp 1.
"""

from tensor_races import assemble

HEAD = """
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .align 64 .b8 map[128], .param .u64 data)
{
  .shared .align 1024 .b8 one[1024];
  .shared .align 1024 .b8 two[1024];
  .shared .align 8 .b8 full[8];
  .shared .align 8 .b8 copied[8];
  .reg .pred yes, w0, w1, leader, other, even, odd;
  .reg .b32 tid, warp, at, z, sum, rank, peer, mine, far, bytes, count;
  .reg .b64 map_at, to, to2, from;
  mov.u32 tid, %tid.x;
  shr.u32 warp, tid, 5;
  setp.eq.u32 w0, warp, 0;
  setp.eq.u32 w1, warp, 1;
  setp.eq.u32 leader, tid, 0;
  setp.eq.u32 other, tid, 32;
  setp.eq.u32 yes, tid, tid;
  mov.u32 rank, %cluster_ctarank;
  xor.b32 peer, rank, 1;
  setp.eq.u32 even, rank, 0;
  setp.eq.u32 odd, rank, 1;
  and.pred leader, leader, yes;
  mov.b32 z, 0;
  ld.param.u64 to, [data];
  add.s64 to2, to, 1024;
  mul.wide.u32 from, tid, 16;
  add.s64 from, from, to2;
  mov.b64 map_at, map;
  cvta.param.u64 map_at, map_at;
  shl.b32 mine, tid, 4;
  add.u32 at, mine, two;
  st.shared.v4.b32 [at], {z, z, z, z};
  add.u32 mine, mine, one;
  st.shared.v4.b32 [mine], {z, z, z, z};
  fence.proxy.async.shared::cta;
  @leader mbarrier.init.shared.b64 [full], 1;
  @leader mbarrier.init.shared.b64 [copied], 64;
  bar.sync 0;
"""
TAIL = "\n  ret;\n}\n"


def _await(barrier, parity=0, who="yes", order=""):
    return (
        f"{{ .reg .pred q; @!{who} bra SKIP;"
        f" AGAIN: mbarrier.try_wait.parity.{order}shared::cta.b64 q, [{barrier}], {parity};"
        " @!q bra AGAIN; SKIP: }"
    )


SHORT = {
    "LOAD": "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes"
    " [one], [map_at, {z, z}], [full];",
    "BULK_LOAD": "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    " [one], [to], 256, [full];",
    "STORE": "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [map_at, {z, z}], [one];",
    "BULK_STORE": "cp.async.bulk.global.shared::cta.bulk_group [to], [one], 256;",
    "BULK_STORE_2": "cp.async.bulk.global.shared::cta.bulk_group [to2], [two], 256;",
    "REDUCE": "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [to], [one], 256;",
    "EXPECT": "mbarrier.arrive.expect_tx.shared.b64 _, [full], 256;",
    "GROUP": "cp.async.bulk.commit_group;",
    "WAIT": "cp.async.bulk.wait_group 0;",
    "WAIT_READ": "cp.async.bulk.wait_group.read 0;",
    "FENCE": "fence.proxy.async.shared::cta;",
    "COPY": "cp.async.cg.shared.global [mine], [from], 16;",
    "COPIES": "cp.async.commit_group;",
    "COPIED": "cp.async.wait_group 0;",
    "ARRIVE_COPIED": "cp.async.mbarrier.arrive.noinc.shared.b64 [copied];",
    "AWAIT_FULL_RELAXED": _await("full", order="relaxed.cta."),
    "AWAIT_FULL": _await("full"),
    "LEADER_AWAIT_FULL": _await("full", who="leader"),
    "LEADER_AWAIT_FULL_AGAIN": _await("full", 1, who="leader"),
    "AWAIT_COPIED": _await("copied"),
    "MEET": "barrier.cluster.arrive; barrier.cluster.wait;",
}


def text(body, without=None):
    return assemble(HEAD, body, TAIL, SHORT, without)


PROXY = "race: .*missing: fence.proxy.async"
LOADED = "race: .* not ordered after .*cp.async.bulk.*missing: a wait for the phase"
READ = "race: .*write to shared address.*cp.(reduce.)?async.bulk.*(wait_group|has waited)"
WRITTEN = "race: .*global address.*write by cp.async.bulk.*missing: a cp.async.bulk.wait_group by"
COPIED = "race: .* not ordered after .*cp.async.cg.*missing: a cp.async.wait_group"
UNFINISHED = "unfinished: .*CTA exits while .* may be under way"
RACE = "race: "
