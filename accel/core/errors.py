"""One error tree. Guarantee: every failure a person can meet is one of these, and reads as one line.

    AccelError
    ├── UsageError            what was given cannot be used: says what, and what to do
    │   ├── SettingsError     a setting, key or file of ours
    │   ├── CorpusError       documents that cannot be read or indexed
    │   └── QueryError        a question that cannot be asked
    ├── ModelError            weights missing, or not the ones that were pinned
    ├── IndexError_           an index that is half-written, foreign, or of another Spec
    ├── TermsError            the provider's terms forbid it: carries the clause
    ├── LedgerError           the durable record cannot be read or written
    │   └── OverBudget        the reservation would pass a limit: nothing was started
    │       ├── TooManyLaunches   so many machines were rented within the hour already
    │       └── QuotaHeld     what is left of free hours is held: it may come free again
    ├── ProviderError         one provider, one call; the class decides what routing does next
    │   ├── Unreachable       no answer: connection, DNS, time-out, 5xx
    │   ├── RateLimited       429: slow down, not broken
    │   ├── NoCapacity        nothing free now: queue again later
    │   │   ├── OfferTaken    this one machine is rented already
    │   │   └── SessionsFull  as many as one account may have at once are ours already
    │   ├── QuotaExhausted    nothing free until the quota refreshes
    │   ├── Unauthorised      401, 402, 403: disabled until the person mends it
    │   ├── Rejected          4xx: this request will never be taken by this provider
    │   ├── OutOfMemory       this size on this GPU is infeasible
    │   ├── Preempted         the machine was taken away; nobody did wrong
    │   ├── Reaped            nobody worked on it any more, and `accel reap` ended it
    │   ├── JobFailed         the far end ran and failed
    │   ├── BadOutput         the far end answered with something that does not validate
    │   └── TimedOut          our deadline passed first
    └── EveryAttemptFailed    the cascade is over: lists every attempt

Retries live in one layer (``routing.cascade``), which reads ``retry`` and the class; providers never
retry. ``exit_code`` is what the command line returns: 2 for what the person can mend at the
keyboard, 1 for everything else.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from accel.core.attempt import Attempt
    from accel.core.money import Cost


class AccelError(Exception):
    """Base of every error we raise on purpose. ``str(error)`` is one line, fit for a terminal."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        super().__init__(f"{self.message} {self.hint}".strip())


class UsageError(AccelError):
    """Something the person gave cannot be used."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting, a key or a settings file cannot be used. Never repeats a secret's value."""


class CorpusError(UsageError):
    """Documents cannot be read or indexed."""


class QueryError(UsageError):
    """A question cannot be asked as it stands."""


class ModelError(AccelError):
    """A model is missing, or its weights are not the pinned ones."""


class IndexError_(AccelError):
    """An index is half-written, foreign, damaged, or was made under another Spec."""


class TermsError(UsageError):
    """The provider's terms forbid this use.

    ``clause`` quotes or sums up the term; ``url`` and ``read_on`` say where and when it was read.
    """

    def __init__(self, message: str, *, clause: str, url: str, read_on: str) -> None:
        self.clause, self.url, self.read_on = clause, url, read_on
        super().__init__(message, hint=f"Term: {clause} ({url}, read {read_on}).")


class LedgerError(AccelError):
    """The ledger cannot be read or written."""


class OverBudget(LedgerError):
    """A reservation would pass a limit. Nothing was started and nothing is held."""


class TooManyLaunches(OverBudget):
    """As many machines as are allowed were rented in the last hour. Nothing was started."""


class QuotaHeld(OverBudget):
    """A provider's free hours have no room now; they may when what is held ends, or the quota refreshes."""


class Retry(StrEnum):
    """What the cascade may do after a provider error."""

    SAME = "same"      # the same offer may be tried again, after a pause
    NEXT = "next"      # go to another offer


class Blame(StrEnum):
    """What a failed call says about its provider, and so who reacts to it in ``routing``."""

    PROVIDER = "provider"  # it is unwell: the breaker counts it
    LOAD = "load"          # we ask too much at once: the concurrency limit shrinks
    ACCOUNT = "account"    # nothing more until the person or a refresh mends it: disabled
    SIZE = "size"          # this much work does not fit there, smaller work may
    NOBODY = "nobody"      # a machine was taken away, or none was free


class ProviderError(AccelError):
    """One call to one provider failed.

    provider: its name. retry_after_s: what the provider asked for, seconds, if it said so.
    ran: whether the far end may have worked, and so billed, before it failed. blame: see ``Blame``.
    billed: what the failed call cost, where the provider told; else it is estimated from ``ran``.
    """

    retry: ClassVar[Retry] = Retry.NEXT
    ran: ClassVar[bool] = True
    blame: ClassVar[Blame] = Blame.PROVIDER
    billed: Cost | None = None

    def __init__(
        self, message: str, *, provider: str, hint: str = "", retry_after_s: float | None = None
    ) -> None:
        self.provider = provider
        self.retry_after_s = retry_after_s
        super().__init__(f"{provider}: {message}", hint=hint)


class Unreachable(ProviderError):
    """No usable answer came back; whether the request took effect is unknown."""

    retry = Retry.SAME


class RateLimited(ProviderError):
    """The provider asked us to slow down (HTTP 429)."""

    retry = Retry.SAME
    ran = False
    blame = Blame.LOAD


class NoCapacity(ProviderError):
    """The provider has nothing free now (a session limit, no machine of that kind)."""

    ran = False
    blame = Blame.NOBODY


class OfferTaken(NoCapacity):
    """An offer that is one machine, which another lease of this home has, or may still have."""


class SessionsFull(NoCapacity):
    """This home has as many leases there as one account may have at once."""


class QuotaExhausted(ProviderError):
    """The free quota is used up. ``resets_at`` is UTC, when the provider tells."""

    ran = False
    blame = Blame.ACCOUNT

    def __init__(self, message: str, *, provider: str, resets_at: datetime | None = None) -> None:
        self.resets_at = resets_at
        hint = f"It refreshes at {resets_at:%Y-%m-%d %H:%M} UTC." if resets_at else ""
        super().__init__(message, provider=provider, hint=hint)


class Unauthorised(ProviderError):
    """The key is missing, wrong, expired, or may not do this (401, 402, 403)."""

    ran = False
    blame = Blame.ACCOUNT


class Rejected(ProviderError):
    """The provider will never take this request as it stands."""

    ran = False
    blame = Blame.SIZE


class OutOfMemory(ProviderError):
    """The work does not fit this GPU at this size."""

    blame = Blame.SIZE


class Preempted(ProviderError):
    """The machine was taken away in the middle."""

    blame = Blame.NOBODY


class Reaped(ProviderError):
    """No process worked on it any more, so that ``accel reap`` ended what it had rented."""

    blame = Blame.NOBODY


class JobFailed(ProviderError):
    """The far end ran our code and it failed; ``log_tail`` holds its last lines."""

    def __init__(self, message: str, *, provider: str, log_tail: str = "") -> None:
        self.log_tail = log_tail
        super().__init__(message, provider=provider)


class BadOutput(ProviderError):
    """The far end's answer does not validate: truncated, wrong hash, wrong shape, not finite."""


class TimedOut(ProviderError):
    """Our own deadline for this attempt passed first."""


class EveryAttemptFailed(AccelError):
    """No offer gave a valid answer. ``attempts`` lists each try, in order."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...]) -> None:
        self.attempts = attempts
        tried = "; ".join(
            f"{a.provider} {a.error or a.outcome} after {a.timing.total_s * 1e3:.0f} ms, {a.cost}"
            + (f" ({a.detail.removeprefix(f'{a.provider}: ').rstrip('.')})" if a.detail else "")
            for a in attempts
        )
        super().__init__(f"{message}: {tried or 'there was no offer to try'}.")
