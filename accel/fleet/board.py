"""The offer board. Guarantee: every provider gives an offer or a reason, within the caller's patience.

Terms are checked before anything is asked of a provider: what its terms forbid is refused with the
clause, not scored. An answer is fresh for ``FRESH_S``. After that it still serves live tasks for ``STALE_S``
while one probe in the background brings a new one, so that a slow control plane never holds up a request.
This machine is asked each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from accel.core.offer import Offer, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.providers import terms
from accel.providers.base import KeepsConnections, Provider

PROBE_S = 10.0
FRESH_S = 5.0
STALE_S = 60.0
LOCAL = "local"
Answer = Offer | Unfit


class Board:
    """What every provider would give now for a need. One board per event loop."""

    def __init__(
        self, providers: Sequence[Provider], runtime: Runtime, accepted: Collection[str] = ()
    ) -> None:
        self.providers = {p.name: p for p in providers}
        self._runtime, self._accepted = runtime, accepted
        self._kept: dict[tuple[str, Need], tuple[float, Answer]] = {}
        self._forbidden: dict[tuple[str, Need], Unfit | None] = {}
        self._asking: dict[tuple[str, Need], asyncio.Task[Answer]] = {}
        # answers that are all fresh, and until when: what most requests need
        self._whole: dict[Need, tuple[float, dict[str, Answer]]] = {}

    async def offers(self, need: Need, patience_s: float = PROBE_S) -> tuple[Answer, ...]:
        """One answer per provider, asked at the same time. Never raises for a provider's failure.

        patience_s: how long to wait for those of whom nothing usable is known.
        """
        now = asyncio.get_running_loop().time()
        until, whole = self._whole.get(need, (0.0, {}))
        if now < until:
            if LOCAL in whole:
                whole[LOCAL] = await self._probe(LOCAL, need)
            return tuple(whole.values())
        names = [n for n in self.providers if not need.only or n in need.only]
        answers: dict[str, Answer] = {}
        waiting: dict[str, asyncio.Task[Answer]] = {}
        until = now + FRESH_S
        for name in names:
            if (refusal := self._refusal(name, need)) is not None:
                answers[name] = refusal
            elif name == LOCAL:
                answers[name] = await self._probe(name, need)
            else:
                at, kept = self._kept.get((name, need), (0.0, None))
                if kept is None or now - at >= (STALE_S if need.lane is Lane.LIVE else FRESH_S):
                    waiting[name] = self._ask(name, need)
                else:
                    answers[name] = kept
                    until = min(until, at + FRESH_S)
                    if now - at >= FRESH_S:
                        self._ask(name, need)
        if waiting:
            await asyncio.wait(waiting.values(), timeout=patience_s)
            for name, asked in waiting.items():
                answers[name] = asked.result() if asked.done() else self._silent(name, patience_s)
                until = 0.0
        whole = {name: answers[name] for name in names}
        self._whole[need] = (until, whole)
        return tuple(whole.values())

    async def aclose(self) -> None:
        """Let go of the connections of those that keep some."""
        for provider in self.providers.values():
            if isinstance(provider, KeepsConnections):
                await provider.aclose()

    def forget(self, name: str = "") -> None:
        """Drop what is kept, of one provider or of all: something was rented or released."""
        if not name:
            self._kept.clear()
        for known in [k for k in self._kept if k[0] == name]:
            del self._kept[known]
        self._whole.clear()

    def doubt(self, name: str) -> None:
        """A call at ``name`` failed: its kept answers still serve, and are asked for again at once."""
        for (provider, need), (at, answer) in list(self._kept.items()):
            if provider == name:
                self._kept[provider, need] = (at - FRESH_S, answer)
                self._whole.pop(need, None)

    def forbids(self, name: str, need: Need) -> bool:
        """Whether the provider's terms forbid it."""
        return self._refusal(name, need) is not None

    def _refusal(self, name: str, need: Need) -> Unfit | None:
        """What the terms say; they do not change while we run."""
        known = (name, need)
        if known not in self._forbidden:
            refusal = terms.check(name, need, self._accepted)
            self._forbidden[known] = (
                Unfit(name, self.providers[name].realm, str(refusal), self._runtime.now())
                if refusal
                else None
            )
        return self._forbidden[known]

    def _ask(self, name: str, need: Need) -> asyncio.Task[Answer]:
        """The probe that is under way, or a new one; its answer is kept when it comes."""
        known = (name, need)
        asked = self._asking.get(known)
        if asked is None:
            asked = self._asking[known] = asyncio.ensure_future(self._probe(name, need))
            asked.add_done_callback(lambda done: self._keep(known, done))
        return asked

    def _keep(self, known: tuple[str, Need], done: asyncio.Task[Answer]) -> None:
        self._asking.pop(known, None)
        if not done.cancelled():
            self._kept[known] = (asyncio.get_running_loop().time(), done.result())

    async def _probe(self, name: str, need: Need) -> Answer:
        provider = self.providers[name]
        try:
            async with asyncio.timeout(PROBE_S):
                return await provider.probe(need)
        except TimeoutError:
            return self._silent(name, PROBE_S)
        except Exception as broken:  # probe never raises; one that does must not take the others along
            reason = f"it could not be asked ({type(broken).__name__})"
            return Unfit(name, provider.realm, reason, self._runtime.now())

    def _silent(self, name: str, patience_s: float) -> Unfit:
        reason = f"no answer within {patience_s:.3g} s"
        return Unfit(name, self.providers[name].realm, reason, self._runtime.now())
