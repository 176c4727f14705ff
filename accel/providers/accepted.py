"""Terms that the person accepted. Guarantee: an acceptance counts for the words that were shown alone.

One file in the home folder: for each term its key, the clause as it stood, its URL, when it was read and when
it was accepted. A clause that has changed in ``terms`` since must be accepted again. (``accepted_terms`` of
the settings file is the same said by hand, without a record; both count.)
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from accel.core.errors import SettingsError, UsageError
from accel.providers.terms import TERMS, Allowed, Term

FILE = "accepted-terms.json"


def accept(key: str, home: Path, now: datetime) -> Term:
    """Record that the person accepts the term ``key``, as "kaggle/private data". Returns it.

    Raises UsageError for one that there is not, that asks for nothing, or that nobody can accept.
    """
    term = next((t for t in TERMS if t.key == key), None)
    askable = ", ".join(sorted(t.key for t in TERMS if t.allowed is Allowed.ASK))
    if term is None:
        raise UsageError(f"there is no term {key!r}.", hint=f"These ask to be accepted: {askable}.")
    if term.allowed is Allowed.NO:
        raise UsageError(f"{key} is forbidden, whoever accepts it: {term.clause} ({term.url})")
    if term.allowed is Allowed.YES:
        raise UsageError(f"{key} is allowed as it is.", hint=f"These ask to be accepted: {askable}.")
    kept = _read(home / FILE)
    kept[key] = {
        "clause": term.clause, "url": term.url, "read_on": term.read_on.isoformat(),
        "second_hand": str(term.second_hand), "accepted_at": now.isoformat(timespec="seconds"),
    }  # fmt: skip
    home.mkdir(parents=True, exist_ok=True)
    part = home / f".{FILE}.{os.getpid()}"
    part.write_text(json.dumps(kept, indent=1, sort_keys=True))
    part.replace(home / FILE)
    return term


def accepted(home: Path) -> tuple[str, ...]:
    """Keys of the terms that were accepted as they stand now. Raises SettingsError for a damaged file."""
    kept = _read(home / FILE)
    return tuple(
        t.key for t in TERMS
        if t.allowed is Allowed.ASK and t.key in kept
        and (kept[t.key].get("clause"), kept[t.key].get("url")) == (t.clause, t.url)
    )  # fmt: skip


def _read(file: Path) -> dict[str, dict[str, str]]:
    if not file.exists():
        return {}
    try:
        kept = json.loads(file.read_text())
        if not isinstance(kept, dict) or not all(isinstance(v, dict) for v in kept.values()):
            raise ValueError("not an object of objects")
    except (OSError, ValueError) as bad:
        raise SettingsError(
            f"{file} cannot be read ({type(bad).__name__}).", hint="Delete it, and accept again."
        ) from None
    return kept
