"""The offer board. Guarantee: every provider answers, with an offer or a reason, within ``PROBE_S``.

Terms are checked before anything is asked of a provider: what its terms forbid is refused with the
clause, not scored. Answers of remote providers are kept for ``FRESH_S``; this machine is asked each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from accel.core.offer import Offer, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Need
from accel.providers import terms
from accel.providers.base import Provider

PROBE_S = 10.0
FRESH_S = 5.0
LOCAL = "local"


class Board:
    """What every provider would give now for a need. One board per event loop."""

    def __init__(
        self, providers: Sequence[Provider], runtime: Runtime, accepted: Collection[str] = ()
    ) -> None:
        self.providers = {p.name: p for p in providers}
        self._runtime, self._accepted = runtime, accepted
        self._kept: dict[tuple[str, Need], tuple[float, Offer | Unfit]] = {}

    async def offers(self, need: Need) -> tuple[Offer | Unfit, ...]:
        """One answer per provider, asked at the same time. Never raises for a provider's failure."""
        asked = [p for p in self.providers.values() if not need.only or p.name in need.only]
        return tuple(await asyncio.gather(*(self._ask(p, need) for p in asked)))

    def forget(self) -> None:
        """Drop what is kept: something was rented, released or failed."""
        self._kept.clear()

    async def _ask(self, provider: Provider, need: Need) -> Offer | Unfit:
        if refusal := terms.check(provider.name, need, self._accepted):
            return Unfit(provider.name, provider.realm, str(refusal), self._runtime.now())
        now = asyncio.get_running_loop().time()
        at, answer = self._kept.get((provider.name, need), (0.0, None))
        if answer is not None and now - at < FRESH_S:
            return answer
        try:
            async with asyncio.timeout(PROBE_S):
                answer = await provider.probe(need)
        except TimeoutError:
            reason = f"no answer within {PROBE_S:.0f} s"
            answer = Unfit(provider.name, provider.realm, reason, self._runtime.now())
        except Exception as broken:  # probe never raises; one that does must not take the others along
            reason = f"it could not be asked ({type(broken).__name__})"
            answer = Unfit(provider.name, provider.realm, reason, self._runtime.now())
        if provider.name != LOCAL:
            self._kept[provider.name, need] = (now, answer)
        return answer
