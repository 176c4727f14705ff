"""Providers that are drawn, not called. Guarantee: what one does follows from its seed, calls and faults.

Nothing is executed: a call waits on the loop's clock, and its answer is made from the Spec's and the text's
hash. Each provider notes every call, and what it would bill for it: every second from the request's arrival
to its answer, cold start, failure and hanging included. The numbers of ``natures.WORLD`` are invented to be
plausible; a simulation tests the engine, and says nothing about any real provider. Everything is of realm
``simulated``.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

from accel.core.errors import NoCapacity, Preempted, ProviderError, QuotaExhausted, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import NanoUSD, Rate
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.simulation import answers, mishaps
from accel.simulation.answers import vectors_of
from accel.simulation.evidence import FOREVER, Call
from accel.simulation.mishaps import Mishap
from accel.simulation.natures import LOCAL, WORLD, Nature
from accel.simulation.scene import Scene
from accel.wire import Envelope, unpack_texts

__all__ = ["WORLD", "Nature", "SimulatedProvider", "vectors_of"]
HANGING_S = 1e7


class SimulatedProvider:
    """Serves live from a standing lease; see ``Nature``. Meets ``Provider`` and ``StandsBy``.

    scene: the world it is in; without one it is alone, and nothing goes wrong but by its nature.
    """

    realm = Realm.SIMULATED
    lanes = frozenset({Lane.LIVE})

    def __init__(self, nature: Nature, runtime: Runtime, seed: int, scene: Scene | None = None) -> None:
        self.name, self.nature = nature.name, nature
        self.scene = scene or Scene()
        self.rate = self.shown = nature.rate  # what it charges, and what it says
        self.gone = (FOREVER, FOREVER)  # from when until when its machine was taken away
        self.last: Envelope | None = None
        self._runtime = runtime
        self._rng = random.Random(f"{seed}:{nature.name}")
        self._used_s: dict[int, float] = {}  # quota, by window
        self._warm = (FOREVER, 0.0)  # from when until when it is warm, unless it is called again
        self._failing = (0, 0.0)  # how many calls, until when
        self._refusal: tuple[ProviderError | None, float] = (None, 0.0)
        self.scene.priced(self.name, 0.0, self.rate)

    # Provider -------------------------------------------------------------------------------------

    async def probe(self, need: Need) -> Offer | Unfit:
        """An offer, unless it is unreachable, taken away, or its quota is used up."""
        nature, now, clock = self.nature, self._runtime.now(), asyncio.get_running_loop().time()
        if self.name != LOCAL and self.down(clock):  # this machine always has an offer, good or not
            await asyncio.sleep(0.2)
            return Unfit(self.name, self.realm, "it does not answer", now)
        if self.gone[0] <= clock < self.gone[1]:
            return Unfit(self.name, self.realm, "no machine is free", now)
        left = resets = None
        if nature.quota_s is not None:
            window = nature.window(clock)
            left = max(0.0, nature.quota_s - self._used_s.get(window, 0.0))
            resets = now + timedelta(seconds=nature.reset_s(window) - clock)
            if left == 0.0:
                return Unfit(self.name, self.realm, "the quota is used up", now)
        return Offer(
            id=f"{self.name}-offer", provider=self.name, realm=self.realm, gpu=nature.gpu, rate=self.shown,
            as_of=now, source="invented", lanes=self.lanes, numerics=nature.numerics,
            cold_s=0.0 if self._is_warm(clock) else nature.cold_s, quota_left_s=left,
            round_trip_s=nature.way_s, interruptible=nature.interruptible, billing=nature.billing,
            quota_s=nature.quota_s, quota_resets_at=resets,
        )  # fmt: skip

    def standing_lease(self) -> Lease:
        """Nothing is rented: calls are billed by their seconds."""
        now = self._runtime.now()
        return Lease(self.name, self.name, self.realm, self.name, self.name, now, now + timedelta(days=1))

    async def create(self, intent: Intent) -> Lease:
        """Nothing can be rented here."""
        raise NoCapacity("it rents nothing", provider=self.name)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """There is never anything to give back."""
        return Released(lease.id, "nothing was rented")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """None."""
        return ()

    # One call -------------------------------------------------------------------------------------

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """One answer, after the drawn seconds, or what goes wrong instead."""
        clock, spec, nature = asyncio.get_running_loop().time, request.spec, self.nature
        call = Call(
            self.scene.engine, self.name, request.task_id, spec["stage"], spec["model"], nature.billing,
            self.rate, clock(),
        )  # fmt: skip
        self.scene.begins(call, request)
        try:
            self.last = answer = await self._serve(call, request)
        except ProviderError as error:
            call.error, call.retry_after_s = type(error).__name__, error.retry_after_s or 0.0
            call.told = error.billed is not None or not error.ran
            raise
        except BaseException:
            call.error = "cancelled"
            raise
        finally:
            call.ended = clock()
            if call.billed_s is None:
                call.billed_s = call.ended - call.began
            if nature.billing is Billing.QUOTA:
                window = nature.window(call.began)
                self._used_s[window] = self._used_s.get(window, 0.0) + call.billed_s
            self.scene.ends(call)
        return answer

    async def _serve(self, call: Call, request: Envelope) -> Envelope:
        """What stands before the work: the network, the machine, the account, and what lies in wait."""
        now = call.began
        call.billed_s = 0.0
        if self.down(now):
            await asyncio.sleep(0.05)
            raise mishaps.refused(self.name, told=self._rng.random() < 0.5)
        if self.gone[0] <= now < self.gone[1]:
            raise NoCapacity("no machine is free", provider=self.name)
        refusal, until = self._refusal
        if refusal is not None and now < until:
            await asyncio.sleep(0.05)
            raise refusal
        quota_s = self.nature.quota_s
        if quota_s is not None and self._used_s.get(self.nature.window(now), 0.0) >= quota_s:
            raise QuotaExhausted("the quota is used up", provider=self.name)
        planned = self.scene.ambush.take(self.nature.meets, now)
        mishap = mishaps.NONE if planned is None else mishaps.meet(self, planned, now, self._runtime)
        if mishap.before is not None:
            await asyncio.sleep(mishap.before_s)
            raise mishap.before
        call.billed_s = None  # from here on every second counts
        calls, until = self._failing
        if calls and now < until:
            self._failing = (calls - 1, until)
            await asyncio.sleep(0.1)
            raise Unreachable("HTTP 503", provider=self.name)
        if mishap.inside is not None:
            await asyncio.sleep(0.2)
            raise mishap.inside
        return await self._work(call, request, mishap)

    async def _work(self, call: Call, request: Envelope, mishap: Mishap) -> Envelope:
        nature, rng, now = self.nature, self._rng, call.began
        texts = unpack_texts(request.tensors)
        compute_s = nature.per_text_s * len(texts)
        if nature.per_token_s:
            compute_s += nature.per_token_s * sum(map(answers.tokens_of, texts))
        compute_s *= mishap.slower * rng.lognormvariate(0.0, nature.spread)
        cold_s, draw = self._cold_s(now, mishap.cold_s), rng.random()
        seconds = nature.way_s + cold_s + compute_s
        if mishap.hangs or draw < nature.hanging:
            await asyncio.sleep(HANGING_S)
        if mishap.cut:
            self.gone = (now + seconds / 2, now + seconds / 2 + mishap.away_s)
        await asyncio.sleep(seconds / 2 if mishap.cut else seconds)
        ended = asyncio.get_running_loop().time()
        if now < self.gone[0] <= ended:
            self._warm = (FOREVER, 0.0)
            raise Preempted("the machine was taken away", provider=self.name)
        if nature.cold_s:
            self._warm = (min(self._warm[0], now), ended + nature.idle_s)
        draw -= nature.hanging
        if draw < nature.failing:
            raise mishaps.failure(self.name, rng)
        answer = answers.answer(request, texts, cold_s, compute_s)
        if draw < nature.failing + nature.wrong:
            return answers.spoiled(answer, 0)
        if mishap.late_s:  # the work is done and counted; its answer is still on the way
            call.billed_s = ended - now
            try:
                await asyncio.sleep(mishap.late_s)
            except asyncio.CancelledError:
                if not mishap.stubborn:
                    raise
        if mishap.after:
            self.gone = (ended, ended + mishap.away_s)
        return mishap.change(answer) if mishap.change else answer

    def _cold_s(self, now: float, drawn_s: float | None) -> float:
        """Seconds of cold start that a call has to wait; whoever is first begins it, for all."""
        if drawn_s is not None:
            self._warm = (now + drawn_s, now + drawn_s + self.nature.idle_s)
        since, until = self._warm
        if now < since < FOREVER:
            return since - now
        if self._is_warm(now):
            return 0.0
        cold_s = self.nature.cold_s
        self._warm = (now + cold_s, max(until, now + cold_s + self.nature.idle_s))
        return cold_s

    def _is_warm(self, now: float) -> bool:
        return not self.nature.cold_s or self._warm[0] <= now < self._warm[1]

    def down(self, now: float) -> bool:
        """Whether nothing can reach it."""
        first, last = self.nature.outage or (0.0, 0.0)
        return first <= now < last or self.scene.is_down(self.nature.region, now)

    # What faults leave behind ---------------------------------------------------------------------

    def fails_for(self, calls: int, until: float) -> None:
        """The next ``calls`` until then fail with a 5xx."""
        self._failing = (calls, until)

    def refuse(self, error: ProviderError, until: float) -> None:
        """Its key or quota is refused until then."""
        self._refusal = (error, until)

    def price(self, charged: Rate, shown: Rate) -> None:
        """From now on it charges, and says that it charges, this."""
        self.rate, self.shown = charged, shown
        self.scene.priced(self.name, asyncio.get_running_loop().time(), shown)

    @property
    def billed(self) -> NanoUSD:
        """What it would charge for all its calls so far."""
        return NanoUSD(sum(c.invoice for c in self.scene.evidence.calls if c.provider == self.name))
