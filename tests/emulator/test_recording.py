"""What a recording says of a launch, against what the problem itself says."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4 import _ext, emulator
from jax_fa4.emulator import record, report, timeline
from jax_fa4.emulator.recording import ASYNC, DONE, STUCK, WAIT, Instruction
from jax_fa4.emulator.roles import Role, roles

VARIANT, LENGTH, WIDTH = "fwd_sm90_bf16_d64", 384, 64


def attend():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, LENGTH, 1, WIDTH)), jnp.bfloat16)
    return jax.block_until_ready(
        jax_fa4.flash_attention(x, x, x, implementation="emulator", return_lse=True)
    )


@pytest.fixture(scope="module")
def recording():
    with record() as recordings:
        attend()
    (found,) = recordings
    return found


@pytest.fixture
def deadlocked():
    """The kernel without its first arrival that counts bytes."""
    text = re.sub(
        r"\n\s*mbarrier\.arrive\.expect_tx[^\n]*", "\n", emulator.ptx_of(VARIANT), count=1
    )
    emulator.load(VARIANT)
    _ext.emulator_load(VARIANT, text)
    try:
        with record() as recordings, pytest.raises(ValueError, match="deadlock"):
            attend()
    finally:
        _ext.emulator_load(VARIANT, emulator.ptx_of(VARIANT))
    return recordings[0]


def of(recording, words):
    """The events and the counts of the opcodes with these words."""
    rows = np.array([all(w in i.opcode for w in words) for i in recording.instructions])
    return recording.events[rows[recording.events["pc"]]], recording.counts[:, rows]


def test_jumps_lead_to_every_event(recording):
    """A warp's path says which instruction its n-th is; events say so, too."""
    paths = {}
    for jump in recording.jumps:
        paths.setdefault((jump["cta"], jump["warp"]), []).append((int(jump["own"]), jump))
    assert len(recording.events)
    for event in recording.events:
        path = paths[event["cta"], event["warp"]]
        begin, jump = max((run for run in path if run[0] <= event["own"]), key=lambda run: run[0])
        assert event["pc"] == jump["pc"] + event["own"] - begin
    executed = sum(int(run[1]["lanes"]).bit_count() for run in paths[0, 0])
    assert 0 < executed <= 32 * len(paths[0, 0])


def test_it_is_the_launch(recording):
    assert recording.name == VARIANT
    assert recording.cluster == (1, 1, 1)
    assert recording.block == (512, 1, 1)
    assert recording.finding == ""
    assert recording.dropped == 0


def test_products_and_exponentials_are_counted(recording):
    products, counts = of(recording, ["wgmma.mma_async"])
    assert products["amount"].sum() == counts["amount"].sum() == 2 * LENGTH * LENGTH * WIDTH
    assert (products["kind"] == ASYNC).all()
    assert of(recording, ["ex2"])[1]["lanes"].sum() >= LENGTH * LENGTH


def test_bytes_are_counted(recording):
    loads, counts = of(recording, ["cp.async.bulk.tensor", "complete_tx"])
    # Queries once, keys and values for each of the two tiles of 192 queries.
    assert loads["amount"].sum() == counts["amount"].sum() == (1 + 2 * 2) * LENGTH * WIDTH * 2
    expected, _ = of(recording, ["expect_tx"])
    for name in ("object", "phase"):  # where the bytes are expected they arrive
        assert set(loads[name]) == set(expected[name])
    stores, _ = of(recording, ["cp.async.bulk.tensor", "global.shared"])
    assert stores["amount"].sum() == LENGTH * WIDTH * 2


def test_waits_find_what_they_waited_for(recording):
    """Every wait for bytes comes after the copies of its object and phase have completed."""
    loads, _ = of(recording, ["complete_tx"])
    waits, _ = of(recording, ["try_wait"])
    checked = 0
    for wait in waits:
        same = (loads["cta"] == wait["cta"]) & (loads["object"] == wait["object"])
        these = loads[same & (loads["phase"] == wait["phase"])]
        assert (these["end"] <= wait["end"]).all()
        checked += len(these)
    assert checked > len(loads)


def test_each_warp_is_in_its_own_order(recording):
    events = recording.events[recording.events["kind"] != ASYNC]
    assert set(events["kind"]) == {DONE, WAIT}
    for cta in np.unique(events["cta"]):
        for warp in range(16):
            own = events[(events["cta"] == cta) & (events["warp"] == warp)]
            assert (np.diff(own["own"].astype(int)) > 0).all()
            assert (np.diff(own["end"].astype(int)) >= 0).all()
            assert (own["begin"] <= own["end"]).all()


def test_the_sums_are_kept_when_events_are_not(recording):
    with record(max_events=10) as recordings:
        attend()
    (short,) = recordings
    assert len(short.events) == 10
    assert short.dropped == len(recording.events) - 10
    for name in ("warps", "lanes", "amount"):
        assert (short.counts[name] == recording.counts[name]).all()
    assert f"{short.dropped} events were not kept" in report.report(short)


def test_recording_changes_nothing():
    plain = attend()
    with record():
        recorded = attend()
    for x, y in zip(plain, recorded, strict=True):
        np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


def test_one_recording_at_a_time():
    with record(), pytest.raises(RuntimeError, match="recording already"), record():
        pass
    with pytest.raises(ValueError, match="max_events is 0"), record(max_events=0):
        pass


def test_roles(recording):
    assert list(map(str, roles(recording))) == [
        "loads (warp 0)",
        "idle (warps 1-3)",
        "consumer 0 (warps 4-7)",
        "consumer 1 (warps 8-11)",
        "consumer 2 (warps 12-15)",
    ]


def test_roles_take_the_names_of_functions(recording, tmp_path):
    source = tmp_path / "kernel.py"
    source.write_text("def mainloop():\n    pass\n\n\ndef load():\n    pass\n")
    lines = {"wgmma": 2, "mbarrier": 6}
    named = tuple(
        Instruction(i.opcode, i.line, str(source), lines.get(i.opcode.split(".")[0], 99))
        for i in recording.instructions
    )
    changed = type(recording)(**vars(recording) | {"instructions": named})
    names = [role.name for role in roles(changed)]
    assert names[0] == "load"
    assert names[2:] == ["mainloop 0", "mainloop 1", "mainloop 2"]
    assert str(Role("load", (1, 3))) == "load (warps 1, 3)"


def test_a_deadlock_shows_who_is_stuck(deadlocked):
    stuck = deadlocked.events[deadlocked.events["kind"] == STUCK]
    assert len(stuck)
    assert deadlocked.finding.startswith("deadlock")
    strips = timeline.text(deadlocked)
    assert "!" in strips.splitlines()[-1] or "never went on" in strips
    assert "deadlock" in report.report(deadlocked)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture(recording, tmp_path, ending):
    path = tmp_path / f"trace.{ending}"
    timeline.draw(recording, path)
    head = path.read_bytes()[:400]
    assert head.startswith(b"\x89PNG") if ending == "png" else b"<svg" in path.read_bytes()[:2000]


def test_a_picture_without_matplotlib_says_what_to_install(recording, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(timeline.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[demo\]'"):
        timeline.draw(recording, tmp_path / "trace.png")


def test_a_cta_that_is_not_there_is_refused(recording):
    with pytest.raises(ValueError, match="no events of CTA 7: there are some of the CTAs 0, 1"):
        timeline.text(recording, cta=7)


@pytest.mark.parametrize(
    ("opcode", "chapter"),
    [
        ("add.s32", "integer arithmetic"),
        ("add.rn.f32x2", "floating point"),
        ("cvt.rn.bf16x2.f32", "data movement and conversion"),
        ("cp.async.bulk.wait_group.read", "asynchronous copies"),
        ("tcgen05.commit.cta_group::1", "tensor core, 5th generation"),
        ("mbarrier.try_wait.parity.shared.b64", "synchronisation and communication"),
        ("ex2.approx.ftz.f32", "floating point"),
        ("popc.b32", "integer arithmetic"),
    ],
)
def test_chapters(opcode, chapter):
    assert report.chapter(opcode) == chapter
