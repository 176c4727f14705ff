"""A corpus is cut in whole blocks, by content, and every shard fits the script that carries it."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from precompute.farend import SPEC

from accel.core.errors import BadOutput, UsageError
from accel.precompute import cut, is_shard
from accel.precompute.shards import SHARD_BYTES, bundle_of, sample, task_of, vectors_of
from accel.providers.kaggle import NAME_RULE
from accel.stages.embed import BLOCK
from accel.wire import Envelope
from accel.worker.artefacts import JobResult
from accel.worker.bundle import MAX_SCRIPT_BYTES, pack_wheel, render_script
from accel.worker.job import packed_texts, unpacked_texts

TEXT = st.text(max_size=6)


@given(st.lists(TEXT, max_size=300), st.integers(1, 300))
def test_shards_cover_the_corpus_in_order_and_begin_at_whole_blocks(texts: list[str], size: int) -> None:
    shards = cut(SPEC, texts, size)
    assert [i for s in shards for i in range(s.start, s.start + s.count)] == list(range(len(texts)))
    assert all(s.start % BLOCK == 0 for s in shards)
    assert [s.number for s in shards] == list(range(len(shards)))
    most = -(-size // BLOCK) * BLOCK
    assert all(0 < s.count <= most for s in shards)


@given(st.lists(TEXT, min_size=130, max_size=300), st.data())
def test_a_shard_is_named_by_its_texts_and_its_spec_alone(texts: list[str], data: st.DataObject) -> None:
    shards = cut(SPEC, texts, BLOCK)
    place = data.draw(st.integers(0, len(texts) - 1))
    changed = cut(SPEC, [*texts[:place], texts[place] + "!", *texts[place + 1 :]], BLOCK)
    for a, b in zip(shards, changed, strict=True):
        assert (a.hash == b.hash) == (place // BLOCK != a.number)
    assert {s.hash for s in cut(replace(SPEC, prompt="query: "), texts, BLOCK)}.isdisjoint(
        s.hash for s in shards
    )
    longer = cut(SPEC, [*texts, "one more"], BLOCK)
    whole = len(texts) // BLOCK
    assert [s.hash for s in longer[:whole]] == [s.hash for s in shards[:whole]]


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        cut(SPEC, ["a"], 0)


def test_its_jobs_have_names_that_kaggle_takes_and_that_are_known_again() -> None:
    (shard,) = cut(SPEC, ["a"])
    for attempt in (0, 1, 99):
        name = f"accel-{shard.job_id(attempt)}-99"
        assert NAME_RULE.fullmatch(name) and len(name) <= 50
        assert is_shard(shard.job_id(attempt))
    assert not is_shard("e83dc4a8eb11") and not is_shard("job")


@given(st.lists(st.text(max_size=20) | st.just("\ud800 lone"), max_size=20))
def test_texts_travel_deflated_and_unaltered(texts: list[str]) -> None:
    assert unpacked_texts(packed_texts(texts)) == texts


def test_even_texts_that_hardly_deflate_fit_the_script_of_a_job(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = ["".join(map(chr, draw.choices(range(33, 0x2FF), k=300))) for _ in range(6 * BLOCK)]
    shards, wheel = cut(SPEC, texts), pack_wheel()
    assert len(shards) > 1
    for shard in shards:
        part = texts[shard.start : shard.start + shard.count]
        task = task_of(shard, SPEC, part, shard.job_id(0), only=frozenset({"kaggle"}), private=False)
        bundle = bundle_of(task, part, wheel, 60.0)
        assert len(bundle.inputs) < SHARD_BYTES * 1.1
        bundle.write(tmp_path / str(shard.number))
        assert len(render_script(tmp_path / str(shard.number))) < MAX_SCRIPT_BYTES


def test_a_result_must_have_the_shards_shape_and_numbers() -> None:
    (shard,) = cut(SPEC, ["a", "b", "c"])
    good = np.ones((3, 8), np.float32)
    broken = good.copy()
    broken[1, 2] = np.nan

    def result(**tensors: np.ndarray) -> JobResult:
        return JobResult(Envelope("t", SPEC.fields(), tensors), {})

    assert np.array_equal(vectors_of(result(vectors=good), shard, SPEC, "x"), good)
    for bad in ({"vectors": good[:2]}, {"vectors": good[:, :4]}, {"vectors": broken}, {"other": good}):
        with pytest.raises(BadOutput, match=re.escape("x: ")):
            vectors_of(result(**bad), shard, SPEC, "x")


@given(st.integers(1, 5000), st.integers(1, 5))
def test_the_sample_lies_within_the_shard(count: int, most: int) -> None:
    from accel.precompute import Shard

    found = sample(Shard(0, 128, count, "h"), most)
    assert 1 <= len(found) <= most and found[0] == 0
    assert all(0 <= i < count for i in found)
