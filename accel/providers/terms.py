"""What each provider's terms allow. Guarantee: a use the table forbids is refused with the clause.

The table is checked before scoring, so that no route ever holds a forbidden offer. A row is one use of
one provider in our own short words, with where and when the clause was read and whether it was read at
its source. "ask" means: allowed once the user has accepted that row by its ``key``. What no row
mentions is not judged here; the four paid clouds' terms have not been read, and their rows say so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from accel.core.errors import TermsError
from accel.core.task import Lane, Need

READ = date(2026, 11, 23)


class Use(StrEnum):
    """A way of using a provider that terms speak of."""

    LIVE = "live"                  # answering queries as they come
    BATCH = "batch"                # bounded jobs that leave artefacts
    UNATTENDED = "unattended"      # jobs nobody sits in front of
    PRIVATE_DATA = "private data"  # inputs that are not the user's own to publish
    TUNNELS = "tunnels"            # SSH, proxies and tunnels into the machine
    ACCOUNTS = "several accounts"  # more than one account, or one shared


class Allowed(StrEnum):
    """yes; no; ask: yes for a user who accepted the row's key."""

    YES = "yes"
    NO = "no"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Term:
    """One row. second_hand: quoted from reviews that agree, not read on the vendor's own page."""

    provider: str
    use: Use
    allowed: Allowed
    clause: str
    url: str
    read_on: date = READ
    second_hand: bool = True

    @property
    def key(self) -> str:
        """What a user accepts, as "kaggle/private data"."""
        return f"{self.provider}/{self.use}"


_KAGGLE = "https://www.kaggle.com/terms"
_COLAB = "https://research.google.com/colaboratory/faq.html"
_NOT_READ = "Their terms have not been read for this table; read them before you rent."

TERMS: tuple[Term, ...] = (
    *(
        Term("local", use, Allowed.YES, "Your own machine.", "", second_hand=False)
        for use in (Use.LIVE, Use.BATCH, Use.UNATTENDED, Use.PRIVATE_DATA, Use.TUNNELS)
    ),
    Term("kaggle", Use.LIVE, Allowed.NO,
         "Section 3: own internal, personal, non-commercial use, not for the benefit of any third "
         "party; notebooks are batch sessions, and proxies or tunnels into them get accounts locked.",
         _KAGGLE),
    Term("kaggle", Use.BATCH, Allowed.YES,
         "Own internal, personal, non-commercial data science; no mining, no server farming.", _KAGGLE),
    Term("kaggle", Use.UNATTENDED, Allowed.YES,
         "Bounded jobs of one account, within its two GPU sessions and weekly quota.", _KAGGLE),
    Term("kaggle", Use.PRIVATE_DATA, Allowed.ASK,
         "Uploads, private ones too, license Kaggle to use them, and deleting takes about two months.",
         _KAGGLE),
    Term("kaggle", Use.TUNNELS, Allowed.NO,
         "Acceptable use: no circumvention tools; sessions with SSH or tunnels are killed.", _KAGGLE),
    Term("kaggle", Use.ACCOUNTS, Allowed.NO, "One account per person, not shared.", _KAGGLE),
    Term("colab", Use.LIVE, Allowed.NO,
         "No web services unrelated to interactive compute; without a positive balance also no "
         "bypassing of the notebook by a web interface and no distributed computing workers.", _COLAB),
    Term("colab", Use.BATCH, Allowed.YES, "One runtime that the user started.", _COLAB),
    Term("colab", Use.UNATTENDED, Allowed.ASK,
         "Without a positive compute-unit balance: no distributed computing workers, no remote "
         "control; accept this only with a balance.", _COLAB),
    Term("colab", Use.TUNNELS, Allowed.NO,
         "Without a positive balance: no remote control such as SSH shells or remote desktops.",
         _COLAB),
    Term("colab", Use.ACCOUNTS, Allowed.NO, "No multiple accounts around limits.", _COLAB,
         second_hand=False),
    *(
        Term(provider, use, Allowed.YES, _NOT_READ, url)
        for provider, url in (
            ("runpod", "https://www.runpod.io/legal/terms-of-service"),
            ("vast", "https://vast.ai/terms"),
            ("modal", "https://modal.com/legal/terms"),
        )
        for use in (Use.LIVE, Use.BATCH, Use.UNATTENDED)
    ),
    *(
        Term("cluster", use, Allowed.YES, "Whatever its operator allows you.", "", second_hand=False)
        for use in (Use.LIVE, Use.BATCH, Use.UNATTENDED)
    ),
)  # fmt: skip


def find(provider: str, use: Use) -> Term | None:
    """The row for this use of this provider; None if the table says nothing."""
    return next((t for t in TERMS if t.provider == provider and t.use == use), None)


def attended(provider: str) -> str:
    """What stands among the accepted keys while a person sits in front and starts each run: then no run is
    ``UNATTENDED``. Never in the settings: whoever opens a session with somebody to ask puts it there."""
    return f"{provider}/attended"


def check(provider: str, need: Need, accepted: Collection[str] = ()) -> TermsError | None:
    """Why the terms forbid ``need`` on ``provider``, or None if they do not. Pure; returns, not raises.

    accepted: keys of rows (``Term.key``) that the user has accepted; and see ``attended``.
    """
    uses = [Use.LIVE if need.lane is Lane.LIVE else Use.BATCH]
    if need.lane is Lane.BATCH and attended(provider) not in accepted:
        uses.append(Use.UNATTENDED)
    if need.private_data:
        uses.append(Use.PRIVATE_DATA)
    for use in uses:
        term = find(provider, use)
        if term is None or term.allowed is Allowed.YES:
            continue
        if term.allowed is Allowed.ASK and term.key in accepted:
            continue
        verb = "forbid" if term.allowed is Allowed.NO else "ask you to accept before"
        mended = ""
        if term.allowed is Allowed.ASK:
            own = " or attend it, on a terminal or with --attended" if use is Use.UNATTENDED else ""
            mended = f' To accept: accel accept-terms "{term.key}"{own}.'
        what = "live serving" if use is Use.LIVE else f"{use} use"
        return TermsError(
            f"{provider}: its terms {verb} {what}.{mended}",
            clause=term.clause + (" [quoted second-hand]" if term.second_hand else ""),
            url=term.url, read_on=term.read_on.isoformat(),
        )  # fmt: skip
    return None
