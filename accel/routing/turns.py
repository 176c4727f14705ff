"""Whose turn it is. Guarantee: every offer has one before any has two; this machine never misses its own.

The offers of one request still to be tried, those passed over for now with the reason, and how long each
that failed is left alone: what it asked for (Retry-After), else full jitter up to 0.1, 0.2, … 2 s (AWS,
"Exponential backoff and jitter").
"""

from __future__ import annotations

from collections.abc import Iterator

from accel.core.attempt import Route, Scored
from accel.core.errors import ProviderError, Retry
from accel.core.runtime import Runtime
from accel.routing.policy import LOCAL
from accel.routing.track import tail_s

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
# what a provider may ask us to wait where there is no deadline; it loses its turn above it
LONGEST_ASKED_S = 30.0


class Turns:
    """waiting: offers that may still be tried, in order."""

    def __init__(self, route: Route, runtime: Runtime) -> None:
        self.waiting = list(route.ranked)
        self._runtime = runtime
        self._taken: set[str] = set()  # providers that had a turn
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._skipped: list[tuple[Scored, str, float | None]] = []

    def take(self, *, last: bool) -> Scored:
        """The next offer: another provider before the same one again; the last allowed try belongs to this
        machine if it has not had one."""
        chosen = self._untried_local() if last else None
        if chosen is None:
            taken = self._taken
            chosen = next((s for s in self.waiting if s.offer.provider not in taken), self.waiting[0])
        self.remove(chosen)
        return chosen

    def remove(self, scored: Scored) -> None:
        """It has its turn now."""
        self.waiting.remove(scored)
        self._taken.add(scored.offer.provider)

    def others(self, running: Scored, *, last: bool) -> Iterator[Scored]:
        """Untried offers of providers other than ``running``'s; the last try is kept for this machine."""
        local = self._untried_local()
        for scored in tuple(self.waiting):
            if last and local is not None and scored is not local:
                continue
            if scored.offer.provider != running.offer.provider and scored.offer.id not in self._failures:
                yield scored

    def failed(self, scored: Scored, error: Exception, now: float) -> None:
        """Put the offer at the end of the queue, if it may be tried again."""
        again = self._failures.get(scored.offer.id, 0)
        self._failures[scored.offer.id] = again + 1
        if not isinstance(error, ProviderError) or error.retry is not Retry.SAME:
            return
        asked = error.retry_after_s
        if asked is not None and asked > LONGEST_ASKED_S:
            return
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**again)
        pause = asked if asked is not None else self._runtime.random.uniform(0, longest)
        self._not_before[scored.offer.id] = now + max(0.0, pause)
        self.waiting.append(scored)

    def skip(self, scored: Scored, reason: str, again_at: float | None) -> None:
        """It may not be used now; again_at: when it may be, where that is known."""
        self._skipped.append((scored, reason, again_at))

    def earliest(self) -> float | None:
        """When the first of those passed over may be used."""
        return min((at for _, _, at in self._skipped if at is not None), default=None)

    def again(self) -> None:
        """Those passed over for a known time have their turn again; who is early is passed over again."""
        self.waiting += [scored for scored, _, at in self._skipped if at is not None]
        self._skipped = [skipped for skipped in self._skipped if skipped[2] is None]

    def skipped(self, now: float) -> str:
        """Who was passed over and why, in words."""
        return "; ".join(
            f"{s.offer.provider}: {reason}" + (f", for {at - now:.0f} s more" if at and at > now else "")
            for s, reason, at in self._skipped
        )

    def pause_s(self, scored: Scored, now: float) -> float:
        """Seconds until the offer may be tried: its Retry-After, or jitter after its last failure."""
        if not self._not_before:
            return 0.0
        return max(0.0, self._not_before.get(scored.offer.id, now) - now)

    def share_s(
        self, scored: Scored, left_s: float, within_s: float, tries_left: int, *, known: bool
    ) -> float:
        """How much of the time left a try may take, so that a hang does not cost the whole request.

        All but twice what those are expected to need that come after it (of which there are ``tries_left``,
        this machine among them; not who could not make it within ``within_s``, the whole deadline); but at
        least its even or its proportional part, whichever is more, or what it may well take, where that
        is known and less.
        """
        after_s = [s.estimate.timing.total_s for s in self._next(tries_left)]
        after_s = [s for s in after_s if s < within_s]
        if not after_s:
            return left_s
        own_s = scored.estimate.timing.total_s
        part = max(1 / (1 + len(after_s)), own_s / ((own_s + sum(after_s)) or 1.0))
        least = left_s * part
        return max(left_s - 2 * sum(after_s), min(least, tail_s(scored.estimate)) if known else least)

    def _next(self, tries: int) -> list[Scored]:
        """Who would come after this try, if it and they failed."""
        untried = [s for s in self.waiting if s.offer.id not in self._failures][:tries]
        local = self._untried_local()
        if local is not None and local not in untried and tries:
            untried[-1] = local
        return untried

    def _untried_local(self) -> Scored | None:
        for scored in self.waiting:
            if scored.offer.provider == LOCAL and scored.offer.id not in self._failures:
                return scored
        return None
