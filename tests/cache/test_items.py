"""What is cached per text is put together again in its place; only what is missing is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from accel.cache import items
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.wire import Envelope, pack_texts, unpack_texts

SPEC = Spec(Stage.EMBED, model="m", dimension=3)
TEXTS = st.lists(st.text(max_size=5), max_size=8)


def ask(texts: list[str], spec: Spec = SPEC, ident: str = "t", **meta: object) -> tuple[Task, Envelope]:
    task = Task(ident, Lane.LIVE, spec, Size(len(texts), 10 * len(texts)), Need(spec.stage, Lane.LIVE))
    return task, Envelope(ident, spec.fields(), pack_texts(texts), meta)


def compute(texts: list[str]) -> np.ndarray:
    return np.array([[len(t), len(set(t)), 1] for t in texts], np.float32).reshape(-1, 3)


@given(TEXTS, st.sets(st.text(max_size=5)))
def test_hits_and_misses_together_are_the_whole_answer(texts: list[str], known: set[str]) -> None:
    task, request = ask(texts)
    keys = items.keys_of(task, request)
    found = {}
    for key, text in zip(keys, texts, strict=True):
        if text in known:
            found[key] = Envelope("", SPEC.fields(), {"vector": compute([text])[0]})
    misses = [i for i, key in enumerate(keys) if key not in found]
    part, missing = items.only(task, request, misses)
    asked = unpack_texts(missing.tensors)
    assert asked == [texts[i] for i in misses]
    if misses:
        assert part.size.items == len(misses)
        output = Envelope(task.id, SPEC.fields(), {"vectors": compute(asked)}, {"compute_s": 1.0})
        found |= items.split(part, output, [keys[i] for i in misses])
    whole = items.merge(task, keys, found)
    assert np.array_equal(whole.tensors["vectors"], compute(texts))
    assert whole.task_id == task.id


def test_whoever_computed_it_the_entry_is_the_same() -> None:
    """No task's id and no timing: two machines that computed the same stored the same bytes."""
    entries = []
    for ident, seconds in (("a", 0.1), ("b", 9.0)):
        task, request = ask(["x"], Spec(Stage.SEARCH), ident, k=3)
        output = Envelope(ident, task.spec.fields(), {"ids": np.arange(3)}, {"compute_s": seconds, "n": 1})
        (key,) = items.keys_of(task, request)
        entries.append((key, items.split(task, output, [key])[key].to_bytes()))
    assert entries[0] == entries[1]


def test_other_stages_are_cached_whole_under_everything_that_matters() -> None:
    spec = Spec(Stage.SEARCH)
    task, request = ask(["x", "y"], spec, k=3, index="i")
    (key,) = items.keys_of(task, request)
    others = [
        ask(["x", "z"], spec, k=3, index="i")[1], ask(["x", "y"], spec, k=4, index="i")[1],
        ask(["x", "y"], spec, k=3, index="j")[1],
        replace(request, tensors=request.tensors | {"vectors": np.zeros((2, 1), np.float32)}),
    ]  # fmt: skip
    assert len({key, *(items.keys_of(task, o)[0] for o in others)}) == 5
    assert items.keys_of(task, replace(request, task_id="another")) == [key]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=8))
def test_an_answer_that_was_not_cached_at_all_is_what_its_parts_come_to(texts: list[str]) -> None:
    for spec, tensors in ((SPEC, {"vectors": compute(texts)}), (Spec(Stage.SEARCH), {"ids": np.arange(3)})):
        task, request = ask(texts, spec)
        output = Envelope(task.id, spec.fields(), tensors, {"compute_s": 1.0, "n": 1})
        keys = items.keys_of(task, request)
        merged = items.merge(task, keys, items.split(task, output, keys))
        assert items.whole(task, output).to_bytes() == merged.to_bytes()
