"""One bad or huge request spoils no other's answer; what waits together is computed together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import ModelError
from accel.core.task import Spec, Stage
from accel.wire import Envelope, pack_texts, unpack_texts
from accel.worker import serving
from accel.worker.door import Refused
from accel.worker.serving import Serving

SPEC, OTHER = Spec(Stage.EMBED, model="one"), Spec(Stage.EMBED, model="two")


def request(texts: list[str], spec: Spec = SPEC, task: str = "t") -> Envelope:
    return Envelope(task, spec.fields(), pack_texts(texts))


def embed(asked: Envelope) -> Envelope:
    """A vector for each text: its length and its first letter. A text "bad" breaks its batch."""
    texts = unpack_texts(asked.tensors)
    if "bad" in texts:
        raise ModelError("one of them is bad")
    rows = [[len(t), ord(t[0]) if t else 0] for t in texts]
    vectors = np.array(rows, np.float32).reshape(len(texts), 2)
    return Envelope(asked.task_id, asked.spec, {"vectors": vectors}, {"cold_s": 0.0, "compute_s": 0.1})


class Gate:
    """Holds the first computation until it is opened, so that others gather behind it."""

    def __init__(self, handle: Callable[[Envelope], Envelope] = embed) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self._handle = handle

    def __call__(self, asked: Envelope) -> Envelope:
        self.sizes.append(len(unpack_texts(asked.tensors)))
        self.entered.set()
        assert self.opened.wait(30)
        return self._handle(asked)


def gathered(gate: Gate, made: Serving, requests: list[Envelope]) -> list[Envelope | Exception]:
    """The answers to ``requests``, which all waited behind a first one, in this order."""

    def ask(asked: Envelope) -> Envelope | Exception:
        try:
            return made.answer(asked, 30)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(ask, request(["first"]))
        assert gate.entered.wait(30)
        waiting = []
        for i, asked in enumerate(requests):
            waiting.append(pool.submit(ask, asked))
            while made.waiting() <= i:
                time.sleep(0.001)
        gate.opened.set()
        first.result(30)
        return [w.result(30) for w in waiting]


def test_what_waits_together_is_computed_together_and_comes_apart_again() -> None:
    gate = Gate()
    made = Serving(gate, lambda: 10_000)
    asked = [
        request([f"{c}{'x' * i}" for i in range(n)], task=c) for c, n in zip("abc", (2, 0, 3), strict=True)
    ]
    answers = gathered(gate, made, asked)
    assert gate.sizes == [1, 5]
    for one, answer in zip(asked, answers, strict=True):
        assert isinstance(answer, Envelope)
        assert answer.task_id == one.task_id
        assert np.array_equal(answer.tensors["vectors"], embed(one).tensors["vectors"])
        assert answer.meta["batched"] == 3
    assert made.counts == {"requests": 4, "batches": 2, "batched": 4}


def test_two_specs_are_never_mixed_and_nobody_is_forgotten() -> None:
    gate = Gate()
    made = Serving(gate, lambda: 10_000)
    answers = gathered(
        gate, made, [request(["a"]), request(["b"], OTHER), request(["c"]), request(["d"], OTHER)]
    )
    assert gate.sizes == [1, 2, 2]
    assert [a.spec["model"] for a in answers if isinstance(a, Envelope)] == ["one", "two", "one", "two"]


def test_a_batch_holds_no_more_than_the_budget_of_that_moment() -> None:
    gate, budget = Gate(), [10_000]
    made = Serving(gate, lambda: budget[0])
    budget[0] = 60  # about: 30 characters are 10 tokens, and 2 for each text
    gathered(gate, made, [request(["x" * 30]) for _ in range(10)])
    assert gate.sizes == [1, 5, 5]
    gate.sizes.clear()


def test_one_larger_than_the_budget_is_computed_alone() -> None:
    gate = Gate()
    made = Serving(gate, lambda: 1)
    answers = gathered(gate, made, [request(["x" * 3000] * 4), request(["y"])])
    assert gate.sizes == [1, 4, 1]
    assert all(isinstance(a, Envelope) for a in answers)


def test_one_bad_request_spoils_no_others_answer() -> None:
    gate = Gate()
    made = Serving(gate, lambda: 10_000)
    answers = gathered(gate, made, [request(["a"]), request(["bad"]), request(["c"])])
    assert isinstance(answers[1], ModelError)
    assert [a.tensors["vectors"][0, 1] for a in (answers[0], answers[2]) if isinstance(a, Envelope)] == [
        97,
        99,
    ]
    assert made.counts["batches_apart"] == 1


def test_a_broken_request_fails_alone() -> None:
    gate = Gate()
    made = Serving(gate, lambda: 10_000)
    broken = Envelope("t", SPEC.fields(), {"text_bytes": np.zeros(3, np.uint8), "text_ends": np.array([9])})
    answers = gathered(gate, made, [request(["a"]), broken, Envelope("t", SPEC.fields(), {})])
    assert [type(a).__name__ for a in answers] == ["Envelope", "EnvelopeError", "EnvelopeError"]


def test_who_gave_up_waiting_is_not_computed() -> None:
    gate = Gate()
    made = Serving(gate, lambda: 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(made.answer, request(["first"]), 30)
        assert gate.entered.wait(30)
        with pytest.raises(Refused, match="not answered") as refused:
            made.answer(request(["late"]), 0.05)
        assert refused.value.status == 504
        gate.opened.set()
        first.result(30)
    assert made.answer(request(["x", "y"])).tensors["vectors"].shape == (2, 2)
    assert gate.sizes == [1, 2]


def test_too_many_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WAITING", 2)
    gate = Gate()
    made = Serving(gate, lambda: 1)
    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(made.answer, request(["first"]), 30)]
        assert gate.entered.wait(30)
        held += [pool.submit(made.answer, request([c]), 30) for c in "ab"]
        while made.waiting() < 2:
            time.sleep(0.001)
        with pytest.raises(Refused, match="too many") as refused:
            made.answer(request(["one more"]), 30)
        assert (refused.value.status, refused.value.headers) == (429, {"Retry_After": "1"})
        gate.opened.set()
        assert len([h.result(30) for h in held]) == 3


def test_a_search_does_not_wait_for_the_models() -> None:
    gate = Gate()
    search = Envelope("s", Spec(Stage.SEARCH).fields(), pack_texts(["q"]))

    def handle(asked: Envelope) -> Envelope:
        return search if asked.spec["stage"] == "search" else gate(asked)

    made = Serving(handle, lambda: 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(made.answer, request(["first"]), 30)
        assert gate.entered.wait(30)
        assert made.answer(search, 5) is search
        gate.opened.set()
        first.result(30)


@given(st.lists(st.lists(st.text(max_size=9), max_size=5), min_size=1, max_size=8), st.integers(1, 40))
def test_however_they_are_put_together_each_gets_its_own(requests: list[list[str]], budget: int) -> None:
    gate = Gate()
    made = Serving(gate, lambda: budget)
    asked = [request(texts, task=str(i)) for i, texts in enumerate(requests)]
    for one, answer in zip(asked, gathered(gate, made, asked), strict=True):
        if "bad" in unpack_texts(one.tensors):
            continue
        assert isinstance(answer, Envelope)
        assert answer.task_id == one.task_id
        assert np.array_equal(answer.tensors["vectors"], embed(one).tensors["vectors"])
