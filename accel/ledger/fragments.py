"""JSON of values that come again. Guarantee: what ``dump`` would write of each, written once.

What is known of a provider, and what may be spent there, go into every decision, and mostly have not changed
since the last: writing them out each time was half of what a decision took in the ledger.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, cast

from accel.ledger.database import adapter, dump

REMEMBERED = 1024  # values that are kept in memory


class Fragments:
    """What was written of values that are never changed, by their identity: quicker than by value."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}

    def whole(self, value: Any) -> str:
        """JSON of a dataclass. Tuples of dataclasses in it are put together from their parts."""
        listed = {}
        for field in fields(value):
            part = getattr(value, field.name)
            if isinstance(part, tuple) and part and is_dataclass(part[0]):
                listed[field.name] = part
        kind = cast(Hashable, type(value))
        rest: str = adapter(kind).dump_json(value, exclude=set(listed)).decode()
        told = [f'"{name}":{self.parts(values)}' for name, values in listed.items()]
        return "{" + ",".join([part for part in (rest[1:-1], *told) if part]) + "}"

    def parts(self, values: Iterable[Any]) -> str:
        """A JSON list of dataclasses."""
        known, told = self._known, []
        for value in values:
            found = known.get(id(value))
            if found is None:
                if len(known) >= REMEMBERED:
                    known.clear()
                # kept with its text, so that no other object can get its identity
                found = known[id(value)] = value, dump(value)
            told.append(found[1])
        return f"[{','.join(told)}]"
