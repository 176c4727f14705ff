"""What the providers of one world share. Guarantee: one place where a call is seen to begin and to end.

Watchers are told of each; they may not touch the engine.
"""

from __future__ import annotations

from collections.abc import Callable

from accel.core.money import Rate
from accel.simulation.evidence import Call, Evidence
from accel.simulation.faults import Ambush
from accel.wire import Envelope

# A price holds for those who were shown it: an offer may be a minute old, and a request take as long again.
HONOURED_S = 120.0
Watcher = Callable[[Call, Envelope], None]


class Scene:
    """engine: number of the router's present life. watchers: told of each call as it begins. enders: and
    as it ends."""

    def __init__(self, ambush: Ambush | None = None) -> None:
        self.evidence = Evidence()
        self.ambush = ambush or Ambush(())
        self.engine = 0
        self.begun: list[Watcher] = []
        self.ended: list[Callable[[Call], None]] = []
        self.rates: dict[str, list[tuple[float, Rate]]] = {}
        self._down: dict[str, float] = {}

    def begins(self, call: Call, request: Envelope) -> None:
        """A call arrived at its provider."""
        self.evidence.calls.append(call)
        for watcher in self.begun:
            watcher(call, request)

    def ends(self, call: Call) -> None:
        """It was answered, failed, or was hung up on."""
        for watcher in self.ended:
            watcher(call)

    def goes_down(self, region: str, until: float) -> None:
        """Nothing in ``region`` can be reached until then."""
        self._down[region] = max(until, self._down.get(region, 0.0))

    def is_down(self, region: str, now: float) -> bool:
        """Whether a region cannot be reached."""
        return bool(self._down) and now < self._down.get(region, 0.0)

    def rates_at(self, call: Call) -> list[Rate]:
        """What a call may have been charged at: any price that was shown shortly before it, and is one."""
        found, recent = [], call.began - HONOURED_S
        for since, rate in reversed(self.rates[call.provider]):
            if not rate.free:
                found.append(rate)
            if since <= recent and found:
                break
        return found or [call.rate]

    def priced(self, name: str, now: float, rate: Rate) -> None:
        """``name`` says from now on that it charges ``rate``."""
        self.rates.setdefault(name, []).append((now, rate))
