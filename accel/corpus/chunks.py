"""Long pages in windows. Guarantee: every line of a page is in some window, and windows overlap.

Words stand for tokens: 170 words of prose with code are about 256 word pieces of the default model,
which reads no further.
"""

from __future__ import annotations

WORDS = 170
OVERLAP = 30


def windows(text: str, words: int = WORDS, overlap: int = OVERLAP) -> list[str]:
    """``text`` in pieces of at most ``words`` words, cut between lines where lines are short enough.

    Each piece repeats the last lines of the one before, ``overlap`` words at most. A text that fits is
    returned as it is; an empty text gives no piece.
    """
    if not 0 <= overlap < words:
        raise ValueError(f"overlap must be below {words} words, not {overlap}")
    if len(text.split()) <= words:
        return [text] if text.strip() else []
    pieces: list[str] = []
    held: list[str] = []
    count = 0
    for line in _short_lines(text, words - overlap):
        size = len(line.split())
        if held and count + size > words:
            pieces.append("\n".join(held))
            held = _tail(held, overlap)
            count = sum(len(x.split()) for x in held)
        held.append(line)
        count += size
    pieces.append("\n".join(held))
    return [p.strip("\n") for p in pieces if p.strip()]


def _short_lines(text: str, limit: int) -> list[str]:
    """Lines, the ones above ``limit`` words cut between words."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if len(words) <= limit:
            lines.append(line)
        else:
            lines += [" ".join(words[i : i + limit]) for i in range(0, len(words), limit)]
    return lines


def _tail(lines: list[str], words: int) -> list[str]:
    kept: list[str] = []
    for line in reversed(lines):
        words -= len(line.split())
        if words < 0:
            break
        kept.insert(0, line)
    return kept
