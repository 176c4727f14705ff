"""Whose fault a failed call was. Guarantee: an error that is none of ours counts as the provider's."""

from __future__ import annotations

from accel.core.errors import Blame, LedgerError, ProviderError, TimedOut, Unreachable, UsageError
from accel.routing.breaker import FAILURE, SILENCE


def blame_of(kind: type[BaseException]) -> Blame | None:
    """Whose fault; None when the request or our own ledger was at fault."""
    if issubclass(kind, ProviderError):
        return kind.blame
    return None if issubclass(kind, UsageError | LedgerError) else Blame.PROVIDER


def weight_of(kind: type[BaseException], *, cut_short: bool) -> int:
    """What a failure by the provider's fault weighs in its breaker; cut_short: as in ``Health.failed``."""
    silent = issubclass(kind, Unreachable) or (issubclass(kind, TimedOut) and not cut_short)
    return SILENCE if silent else FAILURE
