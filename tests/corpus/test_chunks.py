"""Windows over long pages: nothing lost, nothing too long, neighbours overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.corpus.chunks import windows


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(2, 20), st.integers(0, 8))
def test_every_word_is_kept_in_order_and_no_window_is_too_long(
    lengths: list[int], words: int, overlap: int
) -> None:
    overlap = min(overlap, words - 1)
    names = (f"w{i}" for i in range(10_000))  # all different, so that a window can be placed
    text = "\n".join(" ".join(next(names) for _ in range(n)) for n in lengths)
    pieces = windows(text, words, overlap)
    assert all(1 <= len(p.split()) <= words for p in pieces)
    rest = text.split()
    done = 0
    for piece in pieces:
        got = piece.split()
        start = rest.index(got[0])
        assert rest[start : start + len(got)] == got
        assert done - overlap <= start <= done < start + len(got)
        done = start + len(got)
    assert done == len(rest)


def test_a_short_text_is_left_as_it_is_and_an_empty_one_gives_nothing() -> None:
    assert windows("  two\n words ") == ["  two\n words "]
    assert windows(" \n ") == []


def test_the_last_lines_are_repeated() -> None:
    text = "\n".join(f"line {i}" for i in range(100))
    first, second, *_ = windows(text, 40, 10)
    assert first.endswith("line 19")
    assert second.startswith("line 15\n")


def test_an_overlap_as_large_as_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="below 5"):
        windows("a b c", 5, 5)
