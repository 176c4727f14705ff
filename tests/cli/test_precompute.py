"""``accel precompute``: what it brings home is what the live lane uses; bad input is one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.cli import main
from accel.cli.precomputing import vectors_sha256
from accel.index.store import HybridIndex
from accel.session import open_query_session, read_corpus
from accel.stages.embed import embed_blocks, load_encoder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of ``accel precompute …``."""
    monkeypatch.setenv("COLUMNS", "80")

    def called(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accel", "precompute", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return called


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    told = "The keeper trims lamp {} at {} o'clock."
    lines = [{"title": f"Lamp {i}", "text": told.format(i, i % 24)} for i in range(40)]
    (folder / "lamps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.timeout(240)
def test_the_index_comes_home_and_a_query_embeds_only_itself(
    run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(str(corpus), "--sandbox", "--to", "local", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["schema"], found["realm"], found["passages"]) == (1, "sandbox", 40)
    assert not found["was_there"]
    assert [(s["passages"], s["where"], s["again"]) for s in found["shards"]] == [(40, "local", False)]
    assert found["cost_nano_usd"] == 0 and "40 passages in 1 shard" in err

    passages, encoder = read_corpus(corpus), load_encoder()
    vectors = embed_blocks([encoder], [p.content for p in passages])
    whole = HybridIndex.build(corpus.parent / "whole", passages, vectors, encoder.spec)
    assert (found["index"], found["vectors_sha256"]) == (whole.id, vectors_sha256(whole))

    def must_not(*_: object, **__: object) -> None:
        raise AssertionError("a passage was embedded again")

    monkeypatch.setattr("accel.hybrid_gpu_processor.embed_texts", must_not)
    with open_query_session(corpus) as session:
        assert session.processor is not None and session.processor.index.id == whole.id
        assert "lamp 17" in session.query("who trims lamp 17?").text

    code, out, _ = run(str(corpus), "--sandbox", "--to", "local")
    assert code == 0 and "there already" in out and max(map(len, out.splitlines()[:2])) <= 80
    # a file that was only touched needs nothing, either
    (corpus / "lamps.jsonl").touch()
    code, out, _ = run(str(corpus), "--sandbox", "--to", "local")
    assert code == 0 and "there already" in out


def test_private_texts_do_not_go_to_kaggle_without_consent(run: Run, corpus: Path) -> None:
    code, out, err = run(str(corpus), "--sandbox", "--to", "kaggle")
    assert code == 2 and out == ""
    assert "private data" in err.splitlines()[-1] and "kaggle.com/terms" in err.splitlines()[-1]


def test_bad_input_is_one_line_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for argv, said in (
        ((str(tmp_path / "nowhere"),), "no such file or folder"),
        ((str(empty),), ""),
        ((str(tmp_path), "--shard-size", "0"), "shard-size"),
        ((str(tmp_path), "--keep-hours", "-1"), "keep-hours"),
        ((str(tmp_path), "--to", "nobody", "--sandbox"), "nobody"),
        ((str(tmp_path), "--to", "kaggle"), "no key for kaggle"),
    ):
        code, out, err = run(*argv)
        assert code == 2 and out == "", argv
        assert said in err.splitlines()[-1] and "Traceback" not in err, (argv, err)
