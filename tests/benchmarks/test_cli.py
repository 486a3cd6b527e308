"""The benchmark's command line, on problems small enough for a CPU."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import attention, environment, flash_attention_3, merge, peers, report
from benchmarks.cells import Cell

TINY = [
    "--tokens=32",
    "--hidden=16",
    "--head-dim=8",
    "--seqlens=16",
    "--matmul-size=16",
    "--rounds=1",
]
CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="checks what is said where no GPU is present"
)


def _attend_wrong(q, k, v, causal):
    """Right but for its mask."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=not causal)


def _attend_failing(q, k, v, causal):
    raise NotImplementedError("head dim 8 is not built\nsecond line")


def _use(monkeypatch, name, attend):
    peer = peers.Peer(name=name, load=lambda: attend, packages=(), ours=peers.PEERS[name].ours)
    monkeypatch.setitem(peers.PEERS, name, peer)


@CPU
def test_times_who_is_here_and_says_who_is_absent(tmp_path, capsys):
    path = tmp_path / "run.json"
    markdown = tmp_path / "run.md"
    names = ["xla", "jax_fa4", "cudnn", "flash-attn3-jax", "tokamax"]
    status = attention.main(
        [*TINY, "--causal=full", "--peers", *names, f"--json={path}", f"--markdown={markdown}"]
    )
    assert status == 0
    document = report.read(path)
    assert [row["cell"] for row in document["results"]] == ["d8-s16-full-fwd", "d8-s16-full-fwdbwd"]
    assert all(row["peer"] == "xla" and row["tflops"] > 0 for row in document["results"])
    assert all(row["errors"].keys() == row["bounds"].keys() for row in document["results"])
    said = capsys.readouterr().out
    for name in names[1:]:
        assert f"{name} is absent: it needs an NVIDIA GPU" in said
        assert f"- {name}: absent: it needs an NVIDIA GPU" in markdown.read_text()
    assert str(tmp_path) not in path.read_text() + markdown.read_text()


@pytest.mark.parametrize("passes", ["fwd", "fwdbwd"])
def test_a_wrong_contestants_time_stands_in_brackets(monkeypatch, tmp_path, capsys, passes):
    _use(monkeypatch, "jax_fa4", _attend_wrong)
    path = tmp_path / "run.json"
    status = attention.main(
        [
            *TINY,
            "--peers",
            "jax_fa4",
            "xla",
            "--causal=causal",
            f"--pass={passes}",
            f"--json={path}",
        ]
    )
    rows = {row["peer"]: row for row in report.read(path)["results"]}
    assert status == 1
    assert rows["jax_fa4"]["status"] == "wrong"
    assert rows["jax_fa4"]["tflops"] > 0
    assert "out: error" in rows["jax_fa4"]["detail"]
    assert rows["xla"]["status"] == "ok"
    said = capsys.readouterr().out
    assert re.search(r"\(\S+\) wrong +\S+ +- +-\n", said)  # no share of the peak, no ratio


def test_a_wrong_peer_is_not_the_best():
    rows = {row["peer"]: row for row in _document("H", 300.0)["results"]}
    assert report.ratio_to_best_peer(rows) == 0.75
    wrong = {**rows, "tokamax": {**rows["cudnn"], "status": "wrong", "tflops": 600.0}}
    assert report.ratio_to_best_peer(wrong) == 0.75
    assert report.ratio_to_best_peer({**wrong, "jax_fa4": wrong["tokamax"]}) is None


@pytest.mark.parametrize("seqlen", [512, 2048, 8192, 16384])
def test_flash_attention_3_gets_room_for_whole_tiles(seqlen):
    """Its backward writes rows of tiles of 80; its own wrapper makes room for multiples of 128."""
    shape = jax.ShapeDtypeStruct((1, seqlen, 2, 128), jnp.bfloat16)
    lse = jax.ShapeDtypeStruct((1, 2, seqlen), jnp.float32)
    backward = functools.partial(flash_attention_3._backward, False)
    lowered = jax.jit(backward).trace((shape, shape, shape, shape, lse), shape).lower()
    rows = {int(words) for words in re.findall(r"tensor<1x2x(\d+)xf32>", lowered.as_text())}
    assert max(rows) >= -(-seqlen // 80) * 80
    assert [g.shape for g in lowered.out_info] == [shape.shape] * 3


def test_a_failing_contestant_leaves_the_others(monkeypatch, tmp_path, capsys):
    _use(monkeypatch, "cudnn", _attend_failing)
    path = tmp_path / "run.json"
    arguments = [*TINY, "--peers", "cudnn", "xla", "--pass=fwd", "--causal=full"]
    assert attention.main([*arguments, f"--json={path}"]) == 0
    rows = {row["peer"]: row for row in report.read(path)["results"]}
    assert rows["cudnn"]["detail"] == "NotImplementedError: head dim 8 is not built"
    assert rows["xla"]["tflops"] > 0
    assert "cudnn: failed: NotImplementedError: head dim 8 is not built (d8-s16" in (
        capsys.readouterr().out
    )


def test_who_fails_beside_others_is_asked_again(monkeypatch, tmp_path):
    calls = []

    def attend(q, k, v, causal):
        calls.append(q.shape)
        if len(calls) == 1:
            raise RuntimeError("not safe in threads")
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal)

    _use(monkeypatch, "tokamax", attend)
    path = tmp_path / "run.json"
    arguments = [*TINY, "--peers", "tokamax", "--pass=fwd", "--causal=full", f"--json={path}"]
    assert attention.main(arguments) == 0
    assert len(calls) == 2


def test_a_pattern_that_matches_nothing_is_an_error(capsys):
    with pytest.raises(SystemExit):
        attention.main([*TINY, "--cells", "d128-*"])
    assert "--cells 'd128-*' matches none of the 4 chosen cells" in capsys.readouterr().err


def test_list_names_the_published_grid(capsys):
    assert attention.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names)) == 3 * 4 * 2 * 2
    assert "d128-s16384-causal-fwdbwd" in names


def test_flops_and_shapes():
    cell = Cell(head_dim=128, seqlen=2048, mask="causal", pass_="fwdbwd")
    assert cell.shape == (8, 2048, 16, 128)
    assert cell.flops == 4 * 8 * 16 * 2048**2 * 128 / 2 * 3.5
    with pytest.raises(ValueError, match="seqlen=100 does not divide tokens=16384"):
        Cell(head_dim=128, seqlen=100, mask="full", pass_="fwd")


def test_values_of_another_head_dim(monkeypatch, tmp_path, capsys):
    cell = Cell(head_dim=192, head_dim_v=128, seqlen=2048, mask="full", pass_="fwdbwd")
    assert (cell.shape, cell.shape_v) == ((8, 2048, 16, 192), (8, 2048, 16, 128))
    # Scores, output, scores again, dP, dV, dQ, dK.
    columns = 192 + 128 + 192 + 128 + 128 + 192 + 192
    assert cell.flops == 2 * 8 * 16 * 2048**2 * columns
    portable = peers.PEERS["jax_fa4-portable"].load()
    _use(monkeypatch, "jax_fa4", portable)
    _use(monkeypatch, "cudnn", peers.PEERS["xla"].load())
    _use(monkeypatch, "tokamax", lambda q, k, v, causal: portable(q, k, v, not causal))
    _use(monkeypatch, "flash-attn3-jax", flash_attention_3.attend)
    path = tmp_path / "run.json"
    names = ["jax_fa4", "cudnn", "flash-attn3-jax", "tokamax"]
    arguments = [*TINY, "--head-dim", "12:8", "--causal=causal", "--peers", *names]
    assert attention.main([*arguments, f"--json={path}"]) == 0
    rows = report.read(path)["results"]
    assert {row["cell"] for row in rows} == {"d12v8-s16-causal-fwd", "d12v8-s16-causal-fwdbwd"}
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "wrong"] * 2
    assert set(rows[4]["errors"]) == {"out", "dq", "dk", "dv"}
    said = capsys.readouterr().out
    assert "NotImplementedError: values have head dim 8, queries 12" in said
    assert "12, 8" in said


def test_the_recorded_command_names_no_folder():
    words = environment.command(["--json", "/some/where/a.json", "--cells", "d64-*"])
    assert words == "python -m benchmarks.attention --json a.json --cells 'd64-*'"


def _document(gpu: str, tflops: float, seqlen: int = 512) -> dict:
    environment_ = {"gpu": gpu, "packages": {}, "driver": "1", "python": "3", "date": "d"}
    environment_ |= {"command": "c", "clocks_at_start": {}}
    method = {
        "tokens": 1,
        "hidden": 2,
        "rounds": 3,
        "distinct_inputs": 4,
        "matmul_size": 5,
    }
    run = {"environment": environment_, "method": method, "peak_tflops": 800.0}
    rows = [
        {
            "cell": f"d64-s{seqlen}-full-fwd",
            "head_dim": 64,
            "seqlen": seqlen,
            "mask": "full",
            "pass_": "fwd",
            "peer": peer,
            "status": "ok",
            "detail": "",
            "tflops": speed,
            "percent_of_peak": speed / 8,
        }
        for peer, speed in (("jax_fa4", tflops), ("cudnn", 400.0))
    ]
    return {
        "schema": report.SCHEMA,
        "runs": [{**run, "peers": ["jax_fa4", "cudnn", "tokamax"], "absent": {"tokamax": "why"}}],
        "results": rows,
    }


def test_merge_takes_the_last_and_keeps_the_order(tmp_path):
    paths = []
    documents = [_document("H", 100.0, 2048), _document("H", 200.0), _document("H", 300.0)]
    for i, document in enumerate(documents):
        paths.append(tmp_path / f"{i}.json")
        report.save(paths[-1], document)
    out, page = tmp_path / "all.json", tmp_path / "h.md"
    assert merge.main([*map(str, paths), "--json", str(out), "--markdown", str(page)]) == 0
    merged = json.loads(out.read_text())
    ours = [row["tflops"] for row in merged["results"] if row["peer"] == "jax_fa4"]
    assert ours == [300.0, 100.0]
    text = page.read_text()
    assert "| 64 | forward | full | 512 | 300 | 400 | absent | 38 % | 0.75 x |" in text
    assert "tokamax: absent: why" in text


def test_merge_refuses_two_kinds_of_gpu(tmp_path, capsys):
    paths: list[Path] = []
    for i, gpu in enumerate(("H100", "H200")):
        paths.append(tmp_path / f"{i}.json")
        report.save(paths[-1], _document(gpu, 1.0))
    with pytest.raises(SystemExit):
        merge.main([str(path) for path in paths])
    assert "runs differ in GPU: ['H100', 'H200']" in capsys.readouterr().err
