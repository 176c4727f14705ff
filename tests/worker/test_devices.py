"""Several devices as one encoder: on processors that are told apart by name alone, and on slow ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.task import Spec, Stage
from accel.worker.devices import F32, Spread, devices, shares

SPEC = Spec(Stage.EMBED, model="toy", dimension=2)


class Toy:
    """Its vector of a text follows from the text alone. meet: everybody who must be at work at once."""

    def __init__(self, device: str, meet: threading.Barrier | None = None) -> None:
        self.spec, self.device, self.seen, self._meet = SPEC, device, list[str](), meet

    def embed(self, texts: Sequence[str]) -> F32:
        if self._meet:
            self._meet.wait(10)
        self.seen += texts
        return np.array([[len(t), sum(map(ord, t)) % 997] for t in texts], np.float32).reshape(-1, 2)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(t) for t in texts]


@given(st.lists(st.text(max_size=30), max_size=40), st.integers(1, 5))
def test_each_row_is_its_texts_and_each_text_is_embedded_once(texts: list[str], count: int) -> None:
    toys = [Toy(f"cpu:{n}") for n in range(count)]
    assert np.array_equal(Spread(toys).embed(texts), Toy("cpu").embed(texts))
    assert sorted(t for toy in toys for t in toy.seen) == sorted(texts)


def test_two_devices_work_at_the_same_time() -> None:
    both = threading.Barrier(2)
    toys = [Toy("cuda:0", both), Toy("cuda:1", both)]
    spread = Spread(toys)
    assert spread.embed([f"text {n}" for n in range(8)]).shape == (8, 2)
    assert [len(t.seen) for t in toys] == [4, 4]
    assert spread.device == "cuda:0+cuda:1"


def test_one_text_is_not_spread() -> None:
    toys = [Toy("cuda:0"), Toy("cuda:1")]
    Spread(toys).embed(["alone"])
    assert (toys[0].seen, toys[1].seen) == (["alone"], [])


def test_what_one_device_raises_is_raised() -> None:
    class Broken(Toy):
        def embed(self, texts: Sequence[str]) -> F32:
            raise MemoryError("full")

    with pytest.raises(MemoryError):
        Spread([Toy("cuda:0"), Broken("cuda:1")]).embed(["a"] * 8)
    with pytest.raises(ValueError, match="no device"):
        Spread([])


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 6))
def test_shares_are_fair(weights: list[int], parts: int) -> None:
    dealt = shares(weights, parts)
    assert sorted(i for part in dealt for i in part) == list(range(len(weights)))
    totals = [sum(weights[i] for i in part) for part in dealt]
    assert max(totals) - min(totals) <= max(weights, default=0)


@pytest.mark.parametrize(("count", "told"), [(0, ["cpu"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])])
def test_every_gpu_that_torch_sees_is_used(
    monkeypatch: pytest.MonkeyPatch, count: int, told: list[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert devices() == told


def test_the_benchmark_job_embeds_on_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real job and model, on two devices that are both this processor."""
    from accel.stages import embed
    from accel.wire import Envelope, pack_texts
    from accel.worker import devices as module
    from accel.worker.job import embed_benchmark

    made: list[str] = []
    real = embed.load_encoder

    def load(spec: Spec, device: str) -> embed.Encoder:
        made.append(device)
        return real(spec, "cpu")

    monkeypatch.setattr(module, "devices", lambda: ["cuda:0", "cuda:1"])
    monkeypatch.setattr(embed, "load_encoder", load)
    spec = embed.default_spec()
    texts = [f"A text about number {n}." * (n + 1) for n in range(6)]
    inputs = Envelope("t", spec.fields(), pack_texts(texts))
    output = embed_benchmark(spec, inputs, (2,), 2, lambda line: None)
    assert made == ["cuda:0", "cuda:1"]
    assert output.meta["device"] == "cpu+cpu"
    alone = real(spec, "cpu").embed(texts)
    assert np.allclose((output.tensors["vectors"] * alone).sum(axis=1), 1.0, atol=1e-5)
