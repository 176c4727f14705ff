"""One piece of text that can be found and cited. Guarantee: equal hashes mean equal name and text.

A passage is what search returns and what an answer cites; everything else (pages, files, modules)
is cut into passages before it enters an index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from accel.core.errors import CorpusError
from accel.core.task import content_hash

Progress = Callable[[int, int], None]
"""Called with (done, total) as work proceeds; total is 0 while it is not known."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One citable piece of text.

    name: public dotted name ("datetime.date.fromisoformat") or a title. text: what it says.
    source: where it comes from, for people ("python 3.11.7 stdlib · datetime.py:912").
    package: distribution or collection it belongs to ("python", "numpy", a folder's name).
    """

    name: str
    text: str
    source: str
    package: str

    @property
    def content(self) -> str:
        """What the models read: the name, a space, the text (as BEIR does with title and text)."""
        return f"{self.name} {self.text}" if self.name else self.text

    @property
    def hash(self) -> str:
        """BLAKE2b-256 of name and text, hex. Not of the source: a moved line is the same passage."""
        return content_hash(
            self.name.encode("utf-8", "surrogatepass"), self.text.encode("utf-8", "surrogatepass")
        )

    def fields(self) -> dict[str, str]:
        """The four fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> Passage:
        """Inverse of ``fields``. Raises CorpusError when a field is missing, unknown or not text."""
        try:
            made = cls(**fields)
        except TypeError as bad:
            raise CorpusError(f"not a passage: {bad}.") from None
        if not all(isinstance(v, str) for v in (made.name, made.text, made.source, made.package)):
            raise CorpusError("not a passage: every field must be text.")
        return made
