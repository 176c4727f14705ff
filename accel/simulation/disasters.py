"""Faults that strike at their time. Guarantee: files, clocks, prices and networks are touched from outside.

The ledger's file is locked by another connection, its disk is full (SQLite's own limit of pages), or the
router is killed while a paid call is on the wire. Cache entries are overwritten in their file.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from accel.core.money import NanoUSD, Rate
from accel.core.offer import Billing
from accel.core.task import cache_key
from accel.simulation.clock import WallClock
from accel.simulation.evidence import Call, Outage
from accel.simulation.faults import TIMED, Fault, Planned
from accel.simulation.natures import HERE
from accel.simulation.router import CACHE, LEDGER, Router
from accel.simulation.scene import Scene
from accel.simulation.traffic import BASE
from accel.simulation.world import SimulatedProvider
from accel.wire import Envelope

JUMPS_S = (90.0, -90.0, 10_800.0, -10_800.0, 93_600.0, -93_600.0)
FACTORS = (0.5, 3.0, 0.0, 1.3)  # of a price; a price of 0 is shown for a while, and not charged


class Disasters:
    """Plays the timed faults of a plan. regions: of every provider. router: the present one. kill: ends it at
    once. popular: texts whose cache entries are worth spoiling."""

    def __init__(
        self, planned: Sequence[Planned], scene: Scene, clock: WallClock,
        providers: Mapping[str, SimulatedProvider], regions: Mapping[str, str], folder: Path,
        router: Callable[[], Router], kill: Callable[[], None], popular: Sequence[str],
    ) -> None:  # fmt: skip
        self._planned = [p for p in planned if p.kind in TIMED]
        self._scene, self._clock, self._providers, self._folder = scene, clock, providers, folder
        self._router, self._kill, self._popular, self._regions = router, kill, popular, regions
        self._deadly: list[Planned] = []
        self._lock: sqlite3.Connection | None = None
        scene.begun.append(self._begun)
        scene.ended.append(self._ended)

    async def run(self) -> None:
        """All of them, each at its time."""
        loop = asyncio.get_running_loop()
        for planned in self._planned:
            await asyncio.sleep(max(0.0, planned.at_s - loop.time()))
            match planned.kind:
                case Fault.PRICE:
                    self._price(planned)
                case Fault.CLOCK:
                    self._jump(planned)
                case Fault.LEDGER:
                    await self._ledger(planned)
                case Fault.REGION:
                    self._region(planned)
                case Fault.CACHE:
                    self._spoil(planned)

    def _struck(self, kind: Fault) -> None:
        self._scene.ambush.struck[kind] += 1

    # Prices and clocks ----------------------------------------------------------------------------

    def _price(self, planned: Planned) -> None:
        paid = [p for p in self._providers.values() if p.nature.billing is Billing.SECONDS]
        victim = paid[int(planned.draw * len(paid))]
        factor, before = FACTORS[planned.number % len(FACTORS)], victim.nature.rate
        shown = replace(before, nano_per_hour=NanoUSD(round(before.nano_per_hour * factor)))
        if factor:
            victim.price(shown, shown)
        else:
            charged: Rate = victim.rate
            victim.price(charged, shown)
            asyncio.get_running_loop().call_later(90.0, victim.price, charged, charged)
        self._struck(Fault.PRICE)

    def _jump(self, planned: Planned) -> None:
        seconds = JUMPS_S[planned.number % len(JUMPS_S)] * (0.5 + planned.draw)
        self._set_clock(seconds)
        if planned.draw < 0.7:  # and back again
            loop = asyncio.get_running_loop()
            loop.call_later(5.0 + 100.0 * planned.draw, self._set_clock, -seconds)
        self._struck(Fault.CLOCK)

    def _set_clock(self, seconds: float) -> None:
        self._clock.jump(seconds)
        self._scene.evidence.jumps.append((asyncio.get_running_loop().time(), seconds))

    # Files ----------------------------------------------------------------------------------------

    async def _ledger(self, planned: Planned) -> None:
        seconds = 0.5 + 6.0 * planned.draw
        match planned.number % 3:
            case 0:
                self._lock = sqlite3.connect(self._folder / LEDGER, timeout=0, isolation_level=None)
                self._lock.execute("BEGIN IMMEDIATE")
                self._struck(Fault.LEDGER)
                await asyncio.sleep(seconds)
                self.unlock()
            case 1:
                self._router().fill(True)
                self._struck(Fault.LEDGER)
                await asyncio.sleep(seconds)
                self._router().fill(False)
            case _:
                self._deadly.append(planned)

    def unlock(self) -> None:
        """Whoever locked the ledger lets go."""
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None

    def _begun(self, call: Call, request: Envelope) -> None:
        """Kill the router as a paid call begins, or a moment later."""
        if not self._deadly or call.billing is not Billing.SECONDS or self._router().dead:
            return
        match self._deadly[0].number // 3 % 3:
            case 0:
                self._strike_dead()
            case 1:
                self._deadly_soon()

    def _ended(self, call: Call) -> None:
        """Kill it between a paid answer and its settling."""
        if not self._deadly or call.billing is not Billing.SECONDS or self._router().dead:
            return
        if self._deadly[0].number // 3 % 3 == 2 and not call.error:
            self._strike_dead()

    def _deadly_soon(self) -> None:
        planned = self._deadly.pop(0)

        def strike() -> None:
            if not self._router().dead:
                self._deadly.insert(0, planned)
                self._strike_dead()

        asyncio.get_running_loop().call_later(0.02 + 0.1 * planned.draw, strike)

    def _strike_dead(self) -> None:
        self._deadly.pop(0)
        self._struck(Fault.LEDGER)
        self.unlock()
        self._kill()

    def _spoil(self, planned: Planned) -> None:
        chance = random.Random(planned.draw)
        with closing(sqlite3.connect(self._folder / CACHE, timeout=0, isolation_level=None)) as db:
            for text in chance.choices(self._popular, k=50):
                key = cache_key(BASE, text)
                found = db.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
                if found is None:
                    continue
                value = _damaged(found[0], planned.number, chance)
                db.execute("UPDATE entry SET value = ? WHERE key = ?", (value, key))
                self._struck(Fault.CACHE)
                return

    # Networks -------------------------------------------------------------------------------------

    def _region(self, planned: Planned) -> None:
        now, seconds = asyncio.get_running_loop().time(), 20.0 + 80.0 * planned.draw
        regions = sorted(set(self._regions.values()) - {HERE})
        match planned.number % 4:
            case 2:
                away = regions
            case 3:
                away, seconds = [*regions, HERE], seconds / 4
            case _:
                away = [regions[planned.number // 4 % len(regions)]]
        for region in away:
            self._scene.goes_down(region, now + seconds)
        names = frozenset(name for name, region in self._regions.items() if region in away)
        self._scene.evidence.outages.append(Outage(names, now, now + seconds))
        self._struck(Fault.REGION)


def _damaged(value: bytes, variant: int, chance: random.Random) -> bytes:
    """A bit turned, the end lost, other bytes, or none."""
    match variant % 4:
        case 0:
            at = len(value) - 1 - chance.randrange(min(32, len(value)))  # among its numbers
            return value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]
        case 1:
            return value[: chance.randrange(1, len(value))]
        case 2:
            return chance.randbytes(len(value))
        case _:
            return b""
