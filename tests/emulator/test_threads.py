"""Barriers, clusters, parameters and the registers that say where a thread is."""

import numpy as np
import pytest

SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(6))]


@pytest.mark.parametrize(("completion", "seed"), SCHEDULES)
def test_barriers(run_file, completion, seed):
    got = np.zeros(128, np.uint32)
    run_file("barriers", got, block=(128, 1, 1), completion=completion, seed=seed)
    reversed_lanes = np.arange(63, -1, -1)
    np.testing.assert_array_equal(got[:64], reversed_lanes + 100)
    np.testing.assert_array_equal(got[64:], reversed_lanes + 200)


@pytest.mark.parametrize(("completion", "seed"), SCHEDULES)
def test_cluster(run_file, completion, seed):
    got = np.zeros((4, 32), np.uint32)
    run_file("cluster", got, grid=(4, 1, 1), cluster=(2, 1, 1), completion=completion, seed=seed)
    for cta, words in enumerate(got):
        np.testing.assert_array_equal(words, np.arange(32) + 1000 * (1 - cta % 2))


def test_parameters_and_places(run_file):
    grid, block = (3, 2, 2), (4, 2, 3)
    got = np.zeros((grid[2], grid[1], grid[0], block[2], block[1], block[0], 16), np.uint32)
    words = np.arange(10, 18, dtype=np.uint32) * 0x01010101
    run_file(
        "parameters",
        got,
        np.uint32(0xCAFE),
        np.uint64(0x0123456789ABCDEF),
        np.uint8(0xA5),
        words.view("V32")[0],
        grid=grid,
        block=block,
    )
    for place in np.ndindex(*got.shape[:-1]):
        cz, cy, cx, tz, ty, tx = place
        expected = [tx, ty, tz, cx, cy, cz, 0xCAFE, 0xA5, 0x89ABCDEF, 0x01234567, 0, 0]
        assert got[place][:12].tolist() == expected
        expected = [words[1], words[3], words[5], words[6] >> 8 & 255]
        assert got[place][12:].tolist() == expected


MAPA = """
.version 8.6
.target sm_90a
.address_size 64
.shared .align 16 .b8 memory[16];
.visible .entry kernel(.param .u64 d)
{
  .reg .pred %p<4>;
  .reg .b32 %r<8>;
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, memory;
  mapa.shared::cluster.u32 %r2, %r1, %r0;
  setp.OUTSIDE.u32 %p0, %r0, 2;
  setp.eq.u32 %p1, %r0, 0;
  @%p1 mbarrier.init.shared.b64 [%r1], 64;
  fence.mbarrier_init.release.cluster;
  barrier.cluster.arrive;
  barrier.cluster.wait;
  @%p0 mbarrier.arrive.shared::cluster.b64 _, [%r2];
  barrier.cluster.arrive;
  barrier.cluster.wait;
  ret;
}
"""


def test_mapa_of_ctas_that_are_not_there(run_ptx, finding):
    """9.7.9.23: it computes an address. Who uses one of no CTA is told."""
    where = {"grid": (2, 1, 1), "cluster": (2, 1, 1)}
    run_ptx(MAPA.replace("OUTSIDE", "lt"), np.zeros(1, np.uint32), **where)
    with pytest.raises(finding, match=r"out-of-bounds: .* of CTA 2 in a cluster of 2"):
        run_ptx(MAPA.replace("OUTSIDE", "le"), np.zeros(1, np.uint32), **where)


@pytest.mark.parametrize(("completion", "seed"), SCHEDULES)
def test_launch_control(run_file, completion, seed):
    """Work of clusters that have not started is taken over, and none is done twice."""
    done = np.zeros((2, 3, 6), np.int32)
    run_file(
        "launch_control",
        done,
        grid=(6, 3, 2),
        cluster=(2, 1, 1),
        completion=completion,
        seed=seed,
    )
    assert (done == 1).all()


CLAIMS = """
.version 8.7
.target sm_100a
.address_size 64
.shared .align 16 .b8 memory[32];
.visible .entry kernel(.param .u64 d)
{
  .reg .pred %p<3>;
  .reg .b32 %r<6>;
  .reg .b64 %rd<3>;
  .reg .b128 %h;
  mov.u32 %r0, %ctaid.x;
  mov.u32 %r1, %r0;
  mov.u32 %r2, memory;
  mov.b32 %r3, 0;
  add.u32 %r4, %r0, 65536;
  mbarrier.init.shared.b64 [%r2+16], 1;
work:
  ld.param.b64 %rd0, [d];
  mul.wide.u32 %rd1, %r1, 4;
  add.u64 %rd1, %rd0, %rd1;
  red.relaxed.gpu.global.add.u32 [%rd1], %r4;
  mbarrier.arrive.expect_tx.shared.b64 _, [%r2+16], 16;
  clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128
    [%r2], [%r2+16];
wait:
  mbarrier.try_wait.parity.shared.b64 %p0, [%r2+16], %r3;
  @!%p0 bra wait;
  xor.b32 %r3, %r3, 1;
  ld.shared.b128 %h, [%r2];
  clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p1, %h;
  @!%p1 ret;
  clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %r1, %h;
  fence.proxy.async.shared::cta;
  bra work;
}
"""


@pytest.mark.parametrize("completion", ["earliest", "latest", "random"])
def test_the_seed_decides_who_gets_a_cluster(run_ptx, completion):
    """Each CTA adds 65536 and its number to the cells whose work it does."""
    rules = {}
    for seed in range(16):
        done = np.zeros(20, np.int32)
        run_ptx(CLAIMS, done, grid=(20, 1, 1), block=(1, 1, 1), completion=completion, seed=seed)
        times, who = done >> 16, done & 0xFFFF
        assert (times == 1).all()
        started = who == np.arange(20)
        assert started[who].all(), "work of a CTA whose own somebody else did"
        rules[seed] = "all" if not who.any() else "none" if started.all() else "some"
    assert rules[0] == "all"
    assert set(rules.values()) == {"all", "none", "some"}
