"""What must hold at every instant, checked as calls begin and end. Guarantee: it only looks.

The final checks are in ``invariants``; these are the ones that a later look could not make: what the engine's
health said at the moment of a dispatch, and what had been spent by then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

from accel.core.money import NanoUSD, dollars
from accel.core.offer import Billing
from accel.core.task import Task
from accel.ledger import Limits, Period
from accel.simulation.clock import WallClock
from accel.simulation.evidence import Call, Evidence, Rented
from accel.simulation.natures import LOCAL, Nature
from accel.simulation.scene import Scene
from accel.wire import Envelope

ROW = 5  # consecutive failures after which a breaker must be open (reference defaults)


class Purse:
    """What was really spent, in each period of each limit. The router's word is not asked."""

    def __init__(self, limits: Limits, clock: WallClock, evidence: Evidence) -> None:
        self._limits, self._clock, self._evidence = limits, clock, evidence
        self._spent: dict[tuple[str, Period, str], int] = defaultdict(int)
        self._prepaid = dict(limits.credits)
        self.closed = False  # whether a limit was ever reached

    def today(self) -> date:
        """The day that a payment made now belongs to: a clock set back opens no day again."""
        return self._clock.mark().date()

    def pay(self, provider: str, amount: int, day: date) -> None:
        """The provider charges ``amount`` for something that began on ``day``."""
        for (who, period), cap in self._limits.caps.items():
            if who not in ("", provider):
                continue
            credit = sum(self._prepaid.values()) if not who else self._prepaid.get(provider, 0)
            key = (who, period, _span(period, day))
            self._spent[key] += amount
            if self._spent[key] > cap + credit:
                told = f"{dollars(NanoUSD(self._spent[key]))} of {dollars(cap)}"
                self._evidence.seen.append((3, f"{who or 'all'} {key[2]}: {told} were really spent"))


def _span(period: Period, day: date) -> str:
    if period is Period.DAY:
        return day.isoformat()
    year, week, _ = day.isocalendar()
    return f"{day:%Y-%m}" if period is Period.MONTH else f"{year}-W{week:02}"


@dataclass(slots=True)
class _Line:
    """One (provider, stage, model) as seen on the wire. row: failures since the last answer."""

    row: int = 0
    row_since: float = 0.0
    half_open_at: float = -1.0
    probes: set[int] = field(default_factory=set)


class Watch:
    """Told of every call. tasks: by id. refusal: what the present router's health says."""

    def __init__(
        self, scene: Scene, natures: Mapping[str, Nature], purse: Purse, tasks: Mapping[str, Task],
        refusal: Callable[[str, Task, float], str],
    ) -> None:  # fmt: skip
        self._evidence, self._scene, self._natures = scene.evidence, scene, natures
        self._purse, self._tasks, self._refusal = purse, tasks, refusal
        self._lines: dict[tuple[int, str, str, str], _Line] = defaultdict(_Line)
        self._days: dict[int, date] = {}
        self._asked: dict[str, tuple[int, float, float]] = {}  # Retry-After: of whom, from when until when
        scene.begun.append(self.begun)
        scene.ended.append(self.ended)

    def begun(self, call: Call, request: Envelope) -> None:
        """A call arrived: was it allowed to be sent?"""
        task = self._tasks[call.task_id]
        if call.billing is Billing.SECONDS:
            self._days[id(call)] = self._purse.today()
        nature, need = self._natures[call.provider], task.need
        if need.numerics not in nature.numerics or nature.gpu.vram_bytes < need.vram_bytes:
            self._see(12, f"{call.provider} was called for {call.task_id}, which it cannot do")
        if call.provider == LOCAL:
            return
        life, told, until = self._asked.get(call.provider, (-1, 0.0, 0.0))
        if life == call.engine and told < call.began < until - 1e-6:  # in that very instant, nobody can know
            early_s = until - call.began
            self._see(8, f"{call.provider} was called {early_s:.2f} s before its Retry-After was over")
        self._breaker(call, task)

    def _breaker(self, call: Call, task: Task) -> None:
        line = self._line(call)
        said = self._refusal(call.provider, task, call.began)
        if said.startswith("its breaker opened"):
            self._see(6, f"{call.provider} was called at {call.began:.2f} s while {said}")
        elif "half-open" in said:
            line.half_open_at, line.row = call.began, 0
            line.probes.add(id(call))
            if len(line.probes) > 1:
                self._see(6, f"{call.provider}: {len(line.probes)} probes at once at {call.began:.2f} s")
        elif line.row >= ROW:
            words = f"{line.row} calls in a row failed there since {line.row_since:.2f} s"
            self._see(6, f"{call.provider} was called at {call.began:.2f} s, though {words}")

    def ended(self, call: Call) -> None:
        """A call ended: what does it leave behind?"""
        if call.billing is Billing.SECONDS:
            day = self._days.pop(id(call), None)
            if day is not None:
                rate = min((r for r in self._scene.rates_at(call)), key=lambda r: r.nano_per_hour)
                self._purse.pay(call.provider, rate.cost(call.billed_s or 0.0), day)
        if call.provider == LOCAL:
            return
        line = self._line(call)
        line.probes.discard(id(call))
        if call.retry_after_s:
            self._asked[call.provider] = (call.engine, call.ended, call.ended + call.retry_after_s)
        if not call.error:
            line.row = 0
        elif call.error == "Unreachable" and call.began > line.half_open_at:
            line.row += 1
            if line.row == 1:
                line.row_since = call.ended

    def paid(self, rented: Rented, day: date, now: float) -> None:
        """A rented thing is over."""
        if rented.billing is Billing.SECONDS:
            self._purse.pay(rented.provider, rented.rate.cost(rented.billed_s(now)), day)

    def _line(self, call: Call) -> _Line:
        return self._lines[call.engine, call.provider, call.stage, call.model]

    def _see(self, invariant: int, words: str) -> None:
        self._evidence.seen.append((invariant, words))
