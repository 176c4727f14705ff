"""How the providers are doing. Guarantee: a fold over attempts, so that any process can rebuild it.

What a failed call says goes where its ``Blame`` points: PROVIDER to the breaker of (provider, stage,
model), LOAD to the provider's limiter, ACCOUNT to the provider as a whole (nothing goes there until the told
reset, or for ``DISABLED_S`` where none is told, then one probe at a time until two succeed), SIZE to the
ceiling of (provider, stage, model), NOBODY nowhere. An error that is none of ours counts as the provider's.
Who asks to be left alone (Retry-After) is. This machine has no breaker, limiter or ceiling: it is never
refused.

``standing`` says it all to the policy; ``refusal``, ``begin`` and ``ended`` are for the cascade. One object
per event loop; times are ``loop.time()``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from accel.core import errors
from accel.core.attempt import Attempt, Outcome, Scored, Timing
from accel.core.errors import Blame, TimedOut
from accel.core.task import Size, Spec, Task
from accel.routing.blame import blame_of, weight_of
from accel.routing.breaker import FAILURE, SUCCESS, Phase
from accel.routing.limiter import Limiter
from accel.routing.lines import Line, Place
from accel.routing.policy import LOCAL
from accel.routing.standing import Standing
from accel.routing.throttle import Throttle
from accel.routing.track import amount

# A refused key or a used-up quota without a told reset: asked again four times an hour, one call each.
DISABLED_S = 900.0
# What is believed at most: a monthly quota's reset, and an hour of Retry-After.
LONGEST_DISABLED_S, LONGEST_PAUSE_S = 31 * 86400.0, 3600.0
# The longest patience: a minute (nginx's proxy_read_timeout), or ten times what is expected if that is more.
GENEROUS_S, GENEROUS = 60.0, 10.0
# The first patience with an offer of which nothing is measured. A minute cost 12 of 15 callers their answer
# when the preferred server hung from the start (results/, an outage, "hang, cold").
FIRST_S = 10.0
# Each time-out in a row doubles the patience of the next try, as far as the generous bound: a provider
# that became slower would else be cut off for ever.
MOST_DOUBLINGS = 10
EARLY_S = 1e-6  # the loop may wake a sleeper this much too early
_CLOSED = Phase.CLOSED
_FREE_TO_GO: tuple[str, float | None] = ("", None)


@dataclass(slots=True)
class Call:
    """One call in flight, from ``begin`` to its one end. expected_s: of computing."""

    provider: str
    task: Task
    line: Line
    place: Place
    began: float
    generation: int
    account: int | None
    expected_s: float


class Health:
    """Breakers, limiters, retry tokens and tracks of every provider that was met."""

    def __init__(self, chance: random.Random) -> None:
        self.throttle = Throttle()
        self._random = chance
        self._lines: dict[tuple[str, str, str], Line] = {}
        self._places: dict[str, Place] = {}
        self._here: dict[int, tuple[float, float]] = {}  # calls on this machine: begun, expected compute

    def standing(self, provider: str, task: Task, now: float) -> Standing:
        """What the policy may know of ``provider`` for ``task``; the very same object while that is so."""
        line, size = self._line(provider, task.spec), task.size
        view = line.track.view(size)
        measured = line.scaled(view, amount(size)) if view else None
        success = line.success.share(now)
        if provider == LOCAL:
            blocked, again_s, queue_s, since_s = "", None, self._backlog_s(now), None
        else:
            blocked, again_s = self._refusal(line, size, now) or _FREE_TO_GO
            queue_s, since_s = line.place.limiter.queue_s, line.place.since_s(now)
        known = (blocked, again_s, queue_s, success, measured, since_s)
        if known != line.known:
            line.known, line.said = known, Standing(provider, *known)
        return line.said

    def recall(self, attempt: Attempt, spec: Spec, size: Size, at: float) -> None:
        """Fold in an attempt that another process, or an earlier run, recorded; it ended at ``at``.

        Call in the order of ``at``, and never with an attempt of this object's own cascade. Concurrency
        limits and retry tokens are of the moment, and are not recalled.
        """
        line = self._line(attempt.provider, spec)
        place = line.place
        began = at - attempt.timing.total_s
        if attempt.outcome is Outcome.OK:
            self._well(line, size, attempt.timing, at)
            line.breaker.recall(began, at, SUCCESS)
            if place.account.phase is not Phase.CLOSED:
                place.account.recall(began, at, SUCCESS)
            return
        kind = getattr(errors, attempt.error or "-", None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = Exception
        blame = blame_of(kind)
        if attempt.outcome is not Outcome.FAILED or blame is None:
            return
        match blame:
            case Blame.PROVIDER:
                line.success.add(False, at)
                before = line.breaker.phase
                line.breaker.recall(began, at, weight_of(kind, cut_short=False))
                self._opened(line, before)
            case Blame.ACCOUNT:
                place.account.trip(at, DISABLED_S)
            case Blame.SIZE:
                line.ceiling.failed(kind, size, at, attempt.task_id)

    # For the cascade ------------------------------------------------------------------------------

    def refusal(self, provider: str, task: Task, now: float) -> tuple[str, float | None] | None:
        """Why nothing may be sent there now, and the seconds until that may end; None when it may."""
        if provider == LOCAL:
            return None
        return self._refusal(self._line(provider, task.spec), task.size, now)

    def limiter(self, provider: str) -> Limiter | None:
        """Its places; None for this machine."""
        return None if provider == LOCAL else self._place(provider).limiter

    def begin(self, provider: str, task: Task, now: float, expected_s: float = 0.0) -> Call:
        """A call begins, in a place of the limiter's, where ``refusal`` gave None at this moment. expected_s:
        seconds that it will compute."""
        line = self._line(provider, task.spec)
        place = line.place
        account = None if place.account.phase is Phase.CLOSED else place.account.begin(now)
        call = Call(provider, task, line, place, now, line.breaker.begin(now), account, expected_s)
        place.ahead_s += expected_s
        if provider == LOCAL:
            self._here[id(call)] = (now, expected_s)
        return call

    def ahead_s(self, provider: str) -> float:
        """Seconds that our calls in flight there are expected to compute: what comes now may be served behind
        them all."""
        return max(0.0, self._place(provider).ahead_s)

    def overtaken(self, call: Call) -> bool:
        """Whether the breaker opened since ``begin``."""
        breaker = call.line.breaker
        return breaker.phase is Phase.OPEN and breaker.generation != call.generation

    def succeeded(self, call: Call, timing: Timing, now: float) -> None:
        """It gave a valid output. timing: without our own queue."""
        self._well(call.line, call.task.size, timing, now)
        self._over(call, now, SUCCESS, True)
        self.throttle.told(call.provider, True)

    def failed(
        self, call: Call, error: Exception, now: float, *, cut_short: bool = False,
        reset_s: float | None = None,
    ) -> None:  # fmt: skip
        """It raised. cut_short: it timed out before the time that such a call may well take. reset_s: until
        a used-up quota is refilled, where told."""
        line, place, blame = call.line, call.place, blame_of(type(error))
        if blame in (Blame.PROVIDER, Blame.LOAD, Blame.NOBODY):
            line.success.add(False, now)
        weight = weight_of(type(error), cut_short=cut_short) if blame is Blame.PROVIDER else None
        timed_out = isinstance(error, TimedOut)
        line.timeouts += timed_out
        before = line.breaker.phase
        self._over(call, now, weight, False if timed_out or blame is Blame.LOAD else None)
        self._opened(line, before)
        if call.provider == LOCAL or not blame:
            return
        if blame in (Blame.PROVIDER, Blame.LOAD):
            self.throttle.told(call.provider, False)
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        if blame is Blame.ACCOUNT:
            until_s = (reset_s if reset_s and reset_s > 0 else 0.0) or asked_s or DISABLED_S
            place.account.trip(now, min(until_s, LONGEST_DISABLED_S))
        elif asked_s > 0:
            place.paused_until = max(place.paused_until, now + min(asked_s, LONGEST_PAUSE_S))
        if blame is Blame.SIZE:
            line.ceiling.failed(type(error), call.task.size, now, call.task.id)

    def beaten(self, call: Call, now: float) -> None:
        """It was late, and its hedge answered first: it may be slow, or dead. Half of what a silence weighs;
        the next try there is not hedged, and tells. ``recall`` knows nothing of it: it was cancelled.
        """
        call.line.beaten, before = True, call.line.breaker.phase
        self._over(call, now, FAILURE, None)
        self._opened(call.line, before)

    def dropped(self, call: Call, now: float) -> None:
        """It was cancelled, or never sent: nothing is learnt of the provider."""
        self._over(call, now, None, None)

    def patience_s(self, scored: Scored, task: Task) -> float | None:
        """Longest seconds a try may take, whatever the deadline; None: as long as it wants.

        The p99.9 of similar calls, at least twice their median, stretched where this task is larger, and
        what our calls in flight there are expected to compute, of whatever stage, which may be served before;
        cold start apart, for which twice the expected, or the longest seen, is added. Where nothing is
        measured, ``FIRST_S`` or ten times the prior. To be asked before ``begin``.
        """
        provider, expected = scored.offer.provider, scored.estimate.timing
        if provider == LOCAL:
            return None
        generous = max(GENEROUS_S, GENEROUS * expected.total_s)
        line = self._line(provider, task.spec)
        doubled = 2.0 ** min(line.timeouts, MOST_DOUBLINGS)
        if (view := line.track.view(task.size)) is None:
            first = max(FIRST_S + 2.0 * expected.cold_s, GENEROUS * expected.total_s)
            return min(first * doubled, max(first, generous))
        usual = view.p999_s * view.stretch(task.size) + line.place.ahead_s
        longest = usual * doubled
        return min(longest, max(usual, generous)) + 2.0 * max(expected.cold_s, view.cold_s)

    def known(self, scored: Scored, task: Task) -> bool:
        """Whether similar calls were measured."""
        return self._line(scored.offer.provider, task.spec).track.view(task.size) is not None

    def hedge_after_s(self, scored: Scored, task: Task) -> float | None:
        """Seconds after which a try is slower than 95 % of similar ones; None when too few are known, or
        nothing was heard since a hedge beat one: hedges must not hide that nobody is there."""
        line = self._line(scored.offer.provider, task.spec)
        view = line.track.view(task.size)
        if view is None or view.p95_s is None or line.beaten:
            return None
        return view.p95_s * view.stretch(task.size) + scored.estimate.timing.cold_s

    # Inside ---------------------------------------------------------------------------------------

    def _line(self, provider: str, spec: Spec) -> Line:
        key = (provider, spec.stage, spec.model)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(self._random, provider, self._place(provider))
        return line

    def _place(self, provider: str) -> Place:
        place = self._places.get(provider)
        if place is None:
            place = self._places[provider] = Place(self._random)
        return place

    def _refusal(self, line: Line, size: Size, now: float) -> tuple[str, float | None] | None:
        place, breaker = line.place, line.breaker
        account = place.account
        # asked of every provider in every decision: mostly all is well, and nobody needs to be called
        if account.phase is not _CLOSED and (closed := account.refusal(now)):
            return "its key or quota was refused", closed[1]
        if place.paused_until - now > EARLY_S:
            return "it asked to be left alone", place.paused_until - now
        if breaker.phase is not _CLOSED and (closed := breaker.refusal(now)):
            return closed
        return line.ceiling.refusal(size, now)

    def _backlog_s(self, now: float) -> float:
        """Compute seconds before this machine, which takes everything and does it one after another."""
        if not self._here:
            return 0.0
        began, first_s = next(iter(self._here.values()))
        return sum(s for _, s in self._here.values()) - min(now - began, first_s)

    def _over(self, call: Call, now: float, weight: int | None, well: bool | None) -> None:
        call.place.ahead_s -= call.expected_s
        if call.provider == LOCAL:
            self._here.pop(id(call), None)
            return
        call.line.breaker.end(call.generation, now, weight)
        if call.account is not None:
            call.place.account.end(call.account, now, SUCCESS if weight == SUCCESS else None)
        call.place.ended = now
        call.place.limiter.give_back(well, now - call.began)

    def _well(self, line: Line, size: Size, timing: Timing, now: float) -> None:
        line.track.add(size, timing)
        line.success.add(True, now)
        line.ceiling.fitted(size)
        line.timeouts, line.beaten = 0, False

    def _opened(self, line: Line, before: Phase) -> None:
        """From here on the breaker stands for these failures; counted twice, no probe would be sent."""
        if line.breaker.phase is Phase.OPEN and before is not Phase.OPEN:
            line.success.reset()
