"""A fault, as one call meets it. Guarantee: what the far end would raise, answer and bill; no more.

``meet`` turns a planned fault into what happens to the call, and into what it leaves behind at the provider
(a burst goes on, a refused key stays refused, a machine is gone for a while).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from accel.core.errors import (
    OutOfMemory,
    Preempted,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    Unauthorised,
    Unreachable,
)
from accel.core.money import Basis, Cost
from accel.core.runtime import Runtime
from accel.simulation import answers
from accel.simulation.faults import Fault, Planned
from accel.wire import Envelope

NOTICES_S = (0.0, 30.0, 120.0)
LONGEST_COLD_S = 180.0


@dataclass(frozen=True, slots=True)
class Mishap:
    """What happens to a call.

    before: raised after before_s, without anything being done there. inside: raised after the work began, and
    counted. slower: factor on its time. cold_s: of its cold start, infinite for one that never ends. hangs:
    no answer, ever. cut: the machine goes in the middle, for away_s. after: it goes right after the answer.
    late_s: between the work's end and the answer; stubborn: it comes even when nobody waits for it any more.
    change: what becomes of the answer.
    """

    before: ProviderError | None = None
    before_s: float = 0.05
    inside: ProviderError | None = None
    slower: float = 1.0
    cold_s: float | None = None
    hangs: bool = False
    cut: bool = False
    after: bool = False
    away_s: float = 0.0
    late_s: float = 0.0
    stubborn: bool = False
    change: Callable[[Envelope], Envelope] | None = None


NONE = Mishap()


class Victim(Protocol):
    """What a fault leaves behind at a provider."""

    name: str
    gone: tuple[float, float]
    last: Envelope | None

    def fails_for(self, calls: int, until: float) -> None:
        """The next ``calls`` until then fail with a 5xx."""

    def refuse(self, error: ProviderError, until: float) -> None:
        """Its key or quota is refused until then."""


def meet(victim: Victim, planned: Planned, now: float, runtime: Runtime) -> Mishap:
    """What ``planned`` does to a call that begins ``now``, and to its provider."""
    name, draw, number = victim.name, planned.draw, planned.number
    away_s = 20.0 + 60.0 * draw
    match planned.kind:
        case Fault.REFUSED:
            return Mishap(before=refused(name, told=number % 2 == 0), before_s=0.02 + 0.2 * draw)
        case Fault.HANG:
            return Mishap(hangs=True)
        case Fault.SLOW:
            return Mishap(slower=4.0 + 16.0 * draw)
        case Fault.BURST:
            victim.fails_for(2 + int(10 * draw), now + 30.0)
            return Mishap(inside=Unreachable("HTTP 503", provider=name))
        case Fault.THROTTLED:
            asked_s = 0.5 + 12.0 * draw
            return Mishap(before=RateLimited("slow down", provider=name, retry_after_s=asked_s))
        case Fault.ACCOUNT:
            error, until = _account(name, number, runtime, now, 120.0 + 600.0 * draw)
            victim.refuse(error, until)
            return Mishap(before=error)
        case Fault.PREEMPTED:
            notice_s = NOTICES_S[number % 3]
            if not notice_s:
                return Mishap(cut=True, away_s=away_s)
            victim.gone = (now + notice_s, now + notice_s + away_s)
            return NONE
        case Fault.ANSWERED:
            return Mishap(after=True, away_s=away_s)
        case Fault.COLD:
            never = number % 4 == 3
            return Mishap(cold_s=LONGEST_COLD_S if never else 10.0 + 170.0 * draw, hangs=never)
        case Fault.OOM:
            return Mishap(inside=OutOfMemory("CUDA out of memory", provider=name))
        case Fault.PAYLOAD:
            return Mishap(change=functools.partial(answers.spoiled, variant=number))
        case Fault.LATE:
            return _late(victim, number, 15.0 + 30.0 * draw)
    return NONE


def refused(name: str, *, told: bool) -> Unreachable:
    """No connection. told: the adapter knows that nothing was sent, so that nothing was billed."""
    error = Unreachable("connection refused", provider=name)
    if told:
        error.billed = Cost(basis=Basis.BILLED)
    return error


def failure(name: str, chance: random.Random) -> ProviderError:
    """What goes wrong by itself, now and then."""
    kind = chance.randrange(3)
    if kind == 0:
        return Unreachable("HTTP 502", provider=name)
    if kind == 1:
        return Unreachable("the connection was lost", provider=name)
    return Preempted("the machine was taken away", provider=name)


def _account(
    name: str, number: int, runtime: Runtime, now: float, seconds: float
) -> tuple[ProviderError, float]:
    match number % 4:
        case 0:
            return Unauthorised("the key was refused (401)", provider=name), now + seconds
        case 1:
            return Unauthorised("payment is required (402)", provider=name), now + seconds
        case 2:
            resets_at = runtime.now() + timedelta(seconds=seconds)
            return QuotaExhausted("the quota is used up", provider=name, resets_at=resets_at), now + seconds
        case _:
            return QuotaExhausted("the quota is used up", provider=name), now + seconds


def _late(victim: Victim, number: int, seconds: float) -> Mishap:
    earlier = victim.last
    match number % 3:
        case 0:
            return Mishap(late_s=seconds)
        case 1:
            return Mishap(late_s=seconds, stubborn=True)
        case _:
            return Mishap(change=lambda right: earlier if earlier is not None else right)
