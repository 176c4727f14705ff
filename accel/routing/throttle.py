"""How often again. Guarantee: retries and hedges stay a small share of requests, whatever fails.

Three rules, each at its source's default. Retry tokens per provider (gRPC A6): 10, − 1 per failure, + 0.1
per success; at half of them or fewer it gets no retry and no hedge. One retry budget for all (Envoy):
retries in flight are at most 20 % of the active requests, or 3. Hedges: at most 5 % of the live requests so
far (Dean and Barroso, "The Tail at Scale": waiting for the p95 bounds the added load to about that), saved
up to 10.

The first try of a request is no retry, and this machine is no provider to be spared: neither is ever
refused here.
"""

from __future__ import annotations

TOKENS, SUCCESS_TOKENS = 10.0, 0.1
RETRY_SHARE, LEAST_RETRIES = 0.2, 3
HEDGE_SHARE, MOST_HEDGES = 0.05, 10.0
AGAIN_S = 0.1  # a call that fails does so in about that time; ours


class Throttle:
    """active: requests under way. retries: tries in flight that are not the first of their request."""

    __slots__ = ("_hedges", "_tokens", "active", "retries")

    def __init__(self) -> None:
        self.active = 0
        self.retries = 0
        self._tokens: dict[str, float] = {}
        self._hedges = 0.0

    def begin(self, *, live: bool) -> None:
        """A request begins; a live one earns its share of a hedge."""
        self.active += 1
        if live and self._hedges < MOST_HEDGES:
            self._hedges += HEDGE_SHARE

    def end(self) -> None:
        """A request is over."""
        self.active -= 1

    def told(self, provider: str, well: bool) -> None:
        """One try succeeded, or failed by the provider's fault or load."""
        tokens = self._tokens.get(provider, TOKENS)
        self._tokens[provider] = min(TOKENS, tokens + SUCCESS_TOKENS) if well else max(0.0, tokens - 1.0)

    def tokens(self, provider: str) -> float:
        """Retry tokens left."""
        return self._tokens.get(provider, TOKENS)

    def refusal(self, provider: str) -> tuple[str, float | None] | None:
        """Why no retry may go to ``provider`` now, and seconds until it is worth asking again (None: nobody
        knows); None where one may. Who has nothing else left waits for a retry of another request to end."""
        if self.tokens(provider) <= TOKENS / 2:
            return "too many of its calls failed for another retry", None
        if self.retries >= max(LEAST_RETRIES, RETRY_SHARE * self.active):
            return f"{self.retries} retries are under way already", AGAIN_S
        return None

    @property
    def can_hedge(self) -> bool:
        """Whether a hedge has been saved up."""
        return self._hedges >= 1.0 - 1e-9  # twenty times 0.05 is one, but for the last bit

    def hedged(self) -> None:
        """One hedge was sent."""
        self._hedges -= 1.0
