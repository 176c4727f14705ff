"""The cache key tells any two different tasks apart; a Spec survives the way to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from accel.core.task import (
    Lane,
    Need,
    Numerics,
    Size,
    Spec,
    Stage,
    Task,
    cache_key,
    content_hash,
)

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
SPECS = st.builds(
    Spec, stage=st.sampled_from(Stage), model=TEXT, revision=TEXT, tokenizer=TEXT, prompt=TEXT,
    max_length=st.integers(0, 9999), pooling=st.sampled_from(["", "mean", "cls", "tokens"]),
    normalise=st.booleans(), dimension=st.integers(0, 9999), numerics=st.sampled_from(Numerics),
)  # fmt: skip
SPEC = Spec(Stage.EMBED, "m", "r", "t", "p", 256, "mean", True, 384, Numerics.FP32)
OTHER = {
    "stage": Stage.RERANK, "model": "n", "revision": "s", "tokenizer": "u", "prompt": "q",
    "max_length": 255, "pooling": "cls", "normalise": False, "dimension": 383,
    "numerics": Numerics.FP16,
}  # fmt: skip


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Spec)])
def test_every_field_of_a_spec_is_in_the_key(field: str) -> None:
    changed = dataclasses.replace(SPEC, **{field: OTHER[field]})
    assert cache_key(changed, "text") != cache_key(SPEC, "text")


@given(SPECS, st.lists(TEXT, max_size=4), SPECS, st.lists(TEXT, max_size=4))
def test_different_tasks_have_different_keys(a: Spec, xs: list[str], b: Spec, ys: list[str]) -> None:
    assert (cache_key(a, *xs) == cache_key(b, *ys)) == (a == b and xs == ys)


@given(st.lists(st.binary(max_size=6), max_size=5), st.data())
def test_moving_a_boundary_between_parts_changes_the_hash(parts: list[bytes], data: st.DataObject) -> None:
    joined = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(joined)), max_size=4).map(sorted))
    others = [joined[a:b] for a, b in zip([0, *cuts], [*cuts, len(joined)], strict=True)]
    assert (content_hash(*parts) == content_hash(*others)) == (parts == others)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "a "), ("a", " a"), ("a", "a\n"), ("a", "A"), ("a", "a\0"), ("", " "), ("ß", "ss"),
     ("\ud800", "\ud801")],
)  # fmt: skip
def test_text_is_taken_as_it_is(one: str, other: str) -> None:
    assert cache_key(SPEC, one) != cache_key(SPEC, other)


@given(TEXT)
def test_unicode_normal_forms_are_different_texts(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        normal = unicodedata.normalize(form, text)
        assert (cache_key(SPEC, text) == cache_key(SPEC, normal)) == (text == normal)


def test_the_key_is_the_same_in_every_process_and_version() -> None:
    """What lies in a cache stays valid: a change of this value is a change of ``KEY_SCHEMA``."""
    key = cache_key(Spec(Stage.EMBED, model="m"), "text")
    assert key == "08d309e50ed626f9d93b50723add974f24e3776610ffdd822c9405ba2eacd3a5"


@given(SPECS)
def test_a_spec_comes_back_from_json(spec: Spec) -> None:
    assume(not any("\ud800" <= c <= "\udfff" for c in json.dumps(spec.fields(), ensure_ascii=False)))
    assert Spec.from_fields(json.loads(json.dumps(spec.fields()))) == spec


@pytest.mark.parametrize("fields", [{"stage": "embed", "colour": 1}, {"stage": "paint"}])
def test_foreign_spec_fields_are_refused(fields: dict[str, str | int | bool]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Spec.from_fields(fields)


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5))
def test_sizes_are_not_negative(items: int, tokens: int, sent: int, read: int) -> None:
    if min(items, tokens, sent, read) < 0:
        with pytest.raises(ValueError, match="negative"):
            Size(items, tokens, sent, read)
    else:
        assert Size(items, tokens, sent, read).items == items


@pytest.mark.parametrize("within_s", [0.0, -1.0, float("nan")])
def test_a_deadline_is_a_positive_number(within_s: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        Task("t", Lane.LIVE, SPEC, Size(1), Need(Stage.EMBED, Lane.LIVE), within_s=within_s)
