"""Ranking quality: nDCG by hand, a small collection end to end, and the published figures (conformance)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.task import Spec, Stage
from accel.experiments.evaluate import evaluate, ndcg

COLLECTIONS = Path(__file__).parents[3] / "shared" / "data" / "ir"


def test_ndcg_by_hand() -> None:
    assert ndcg(["a", "b", "c"], {"b": 1}) == pytest.approx(0.6309297535714574)
    # DCG 1 + 3/log2 3 + 2/2 = 3.892789; ideal 3 + 2/log2 3 + 1/2 = 4.761860
    assert ndcg(["c", "a", "b"], {"a": 3, "b": 2, "c": 1}) == pytest.approx(0.8174934)
    assert ndcg(["x"], {"a": 1, "b": 1}) == 0.0
    assert ndcg([], {"a": 1}) == 0.0
    assert ndcg(["a"], {"a": 0, "b": -1}) is None
    assert ndcg(["a", "b"], {"a": -1, "b": 1}) == pytest.approx(1 / math.log2(3))
    assert ndcg(list("abcdefghijk"), {"k": 1}) == 0.0  # eleventh
    twelve = {str(i): 1 for i in range(12)}
    assert ndcg(list(twelve), twelve) == pytest.approx(1.0)  # the ideal is cut at 10 as well


LETTERS = "abcdefghijklm"


@given(st.dictionaries(st.sampled_from(LETTERS), st.integers(-1, 4)), st.permutations(LETTERS))
def test_ndcg_is_a_share_and_one_for_the_ideal_order(grades: dict[str, int], ranking: list[str]) -> None:
    value = ndcg(ranking, grades)
    if not any(g > 0 for g in grades.values()):
        assert value is None
        return
    assert value is not None
    assert 0 <= value <= 1 + 1e-12
    assert ndcg(sorted(ranking, key=lambda d: -grades.get(d, 0)), grades) == pytest.approx(1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = {"d1": "parse an ISO date", "d2": "copy a directory tree", "d3": "cache the results"}
    (tmp_path / "toy" / "qrels").mkdir(parents=True)
    toy = tmp_path / "toy"
    (toy / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": "", "text": t}) + "\n" for i, t in documents.items())
    )
    (toy / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "reading dates"}\n{"_id": "q2", "text": "directory copy"}\n'
        '{"_id": "q3", "text": "nothing is relevant"}\n'
    )
    (toy / "qrels" / "test.tsv").write_text("q\td\ts\nq1\td1\t1\nq2\td2\t2\nq3\td3\t0\n")
    return toy


def test_a_small_collection_through_every_stage(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    kept = tmp_path / "kept"
    made = evaluate(folder, reuse=kept, progress=lambda done, n: seen.append((done, n)))
    assert [s.stage for s in made.stages] == ["bm25", "dense", "fusion", "pipeline"]
    assert made.documents == 3
    assert seen[-1] == (3, 3)
    assert made.encode_s > 0
    for stage in made.stages:
        assert stage.n == len(stage.per_query) == 2  # the third has nothing relevant
        assert stage.value == pytest.approx(sum(stage.per_query) / 2)
        assert stage.seconds > 0
    assert made["dense"].value == 1.0
    assert made.rerank_spec is not None
    again = evaluate(folder, reuse=kept, rerank_spec=Spec(Stage.RERANK))
    assert again.encode_s == 0.0
    assert again.rerank_spec is None
    assert again["pipeline"].per_query == again["fusion"].per_query == made["fusion"].per_query
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n{"_id": "d2", "text": "b"}\n')
    (folder / "qrels" / "test.tsv").write_text("q\td\ts\nq1\td1\t1\n")
    assert evaluate(folder, reuse=kept, rerank_spec=Spec(Stage.RERANK)).encode_s > 0


@pytest.mark.conformance
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "dense", "fusion", "least"),
    [("scifact", 0.645, 0.7026, 0.70), ("cranfield", 0.510, 0.5528, 0.55)],
)
def test_the_published_figures(name: str, dense: float, fusion: float, least: float) -> None:
    """SciFact dense: the model's published nDCG@10. The others: measured elsewhere with the same method."""
    if not (COLLECTIONS / name).is_dir():
        pytest.skip(f"the collection {name} is not beside this checkout")
    made = evaluate(COLLECTIONS / name)
    assert abs(made["dense"].value - dense) < 0.005
    assert made["fusion"].value > fusion - 0.005
    assert made["pipeline"].value >= max(least, made["fusion"].value)
