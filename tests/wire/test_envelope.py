"""The envelope: bit for bit what was sent, or an error; nothing in between."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from accel.wire import Envelope, EnvelopeError, pack_texts, unpack_texts

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)  # surrogates too
NUMBERS = hnp.arrays(
    dtype=st.sampled_from(["?", "u1", "i1", "<u2", "<i4", ">i8", "<f2", "<f4", ">f4", "<f8"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False)
    | st.text(max_size=8)
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ENVELOPES = st.builds(
    Envelope,
    task_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    spec=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    tensors=st.dictionaries(
        st.text("abcdef_0123456789", min_size=1, max_size=6), NUMBERS, max_size=3
    ),
    meta=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)


def same(a: Envelope, b: Envelope) -> bool:
    """Equal to the last bit, NaN payloads and signs of zero included."""

    def plain(array: np.ndarray) -> tuple[Any, ...]:
        little = array.astype(array.dtype.newbyteorder("<"))
        return little.dtype.str, little.shape, little.tobytes()

    return (
        a.task_id == b.task_id
        and json.dumps([a.spec, a.meta], sort_keys=True) == json.dumps([b.spec, b.meta], sort_keys=True)
        and {k: plain(v) for k, v in a.tensors.items()} == {k: plain(v) for k, v in b.tensors.items()}
    )


@given(ENVELOPES)
def test_what_arrives_is_what_was_sent(sent: Envelope) -> None:
    got = Envelope.from_bytes(sent.to_bytes())
    assert same(sent, got)
    assert got.digest() == sent.digest()
    assert got.to_bytes() == sent.to_bytes()


def test_every_single_bit_flip_is_caught_or_changes_nothing() -> None:
    """A flip may turn 1e-05 into 1E-05 in the header: then the very same values must come back."""
    sent = Envelope(
        "t1", {"stage": "embed", "dimension": 3}, {"vectors": np.arange(6, dtype=np.float32).reshape(2, 3)},
        {"compute_s": 1e-05, "note": "é"},
    )  # fmt: skip
    blob, harmless = sent.to_bytes(), 0
    for bit in range(len(blob) * 8):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert same(sent, Envelope.from_bytes(bytes(damaged))), f"bit {bit} came through"
            harmless += 1
        except EnvelopeError:
            pass
    assert harmless <= 4  # the "e" of the exponent and the hexadecimal digits of one escape


def test_every_truncation_and_every_extension_is_caught() -> None:
    blob = Envelope("t", {}, {"x": np.ones(3)}, {"k": 1}).to_bytes()
    for end in range(len(blob)):
        with pytest.raises(EnvelopeError):
            Envelope.from_bytes(blob[:end])
    with pytest.raises(EnvelopeError):
        Envelope.from_bytes(blob + b"\0")


@given(st.binary(max_size=200))
def test_foreign_bytes_are_an_envelope_error_and_nothing_else(blob: bytes) -> None:
    with pytest.raises(EnvelopeError):
        Envelope.from_bytes(blob)


@pytest.mark.parametrize("header", ["[]", "3", "{}", '{"__metadata__": []}', "[" * 100_000, '{"a": 1e999}'])
def test_odd_headers_are_envelope_errors(header: str) -> None:
    body = header.encode()
    with pytest.raises(EnvelopeError):
        Envelope.from_bytes(len(body).to_bytes(8, "little") + body)


@pytest.mark.parametrize("part", ["spec", "meta"])
@pytest.mark.parametrize("odd", [[], [["a", 1]], "", 3, None])
def test_a_spec_or_meta_that_is_no_object_is_an_envelope_error(part: str, odd: Any) -> None:
    empty = Envelope("t", {}, {})
    head = {"version": 1, "task_id": "t", "spec": {}, "meta": {}, "digest": empty.digest(), part: odd}
    blob = save({}, metadata={"accel": json.dumps(head)})
    with pytest.raises(EnvelopeError):
        Envelope.from_bytes(blob)


def test_another_version_is_named() -> None:
    blob = Envelope("t", {}, {}).to_bytes()
    with pytest.raises(EnvelopeError, match="version 2"):
        Envelope.from_bytes(blob.replace(b'\\"version\\": 1', b'\\"version\\": 2'))


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["a"]), np.array([1j]), np.array(["2026-01-01"], "datetime64[s]")]
)
def test_only_plain_numbers_travel(array: np.ndarray) -> None:
    with pytest.raises(EnvelopeError, match="do not travel"):
        Envelope("t", {}, {"x": array}).to_bytes()


def test_not_numbers_names_nan_and_plus_infinity_but_not_padding() -> None:
    tensors = {
        "nan": np.array([0, np.nan], np.float32), "inf": np.array([np.inf]),
        "padding": np.array([-np.inf], np.float16), "ids": np.array([-1]), "fine": np.ones(2),
    }  # fmt: skip
    assert sorted(Envelope("t", {}, tensors).not_numbers()) == ["inf", "nan"]


@given(st.lists(ANY_TEXT, max_size=8))
def test_texts_come_back_as_they_went(texts: list[str]) -> None:
    sent = Envelope("t", {}, pack_texts(texts))
    assert unpack_texts(Envelope.from_bytes(sent.to_bytes()).tensors) == texts


@settings(max_examples=200)
@given(st.binary(max_size=12), hnp.arrays(st.sampled_from(["<i8", "<f8", "u1"]), st.integers(0, 4)))
def test_offsets_that_do_not_fit_are_refused(blob: bytes, ends: np.ndarray) -> None:
    tensors = {"text_bytes": np.frombuffer(blob, np.uint8), "text_ends": ends}
    try:
        texts = unpack_texts(tensors)
    except EnvelopeError:
        return
    # whatever is taken must be the packing of what it gave
    assert b"".join(t.encode("utf-8", "surrogatepass") for t in texts) == blob
    assert pack_texts(texts)["text_ends"].tolist() == ends.tolist()


def test_a_missing_text_tensor_is_named() -> None:
    with pytest.raises(EnvelopeError, match="text_ends"):
        unpack_texts({"text_bytes": np.zeros(0, np.uint8)})


@given(st.dictionaries(st.sampled_from("abc"), NUMBERS, max_size=3))
def test_nan_and_infinity_are_named_and_minus_infinity_is_not(tensors: dict[str, np.ndarray]) -> None:
    floats = {name: t for name, t in tensors.items() if t.dtype.kind == "f"}
    bad = [name for name, t in floats.items() if (np.isnan(t) | np.isposinf(t)).any()]
    assert Envelope("t", {}, tensors).not_numbers() == bad
