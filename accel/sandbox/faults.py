"""The fault script. Guarantee: a rule fires on exactly the calls it names, in order, and says so.

A script is a list of rules, plain enough for JSON:

    {"on": "SaveKernel", "kind": "lost_answer", "times": 1, "after": 0}

``on`` is a method of the wire protocol (``SaveKernel``, ``GetKernelSessionStatus``, …), ``Download``
for the plain GET of an output file, ``Logs`` for the log stream, or ``*`` for every call of a client (what
a cloud's own machines ask of it is meant by name only). The first ``after`` matching calls pass, then
``times`` of them fail (0: all from then on). The first rule that matches wins; later rules do not see that
call.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    """What goes wrong. Those marked (effect) happen after the call has done its work."""

    DELAY = "delay"                # seconds, then the call goes on as usual
    HANG = "hang"                  # no answer for ``seconds`` (0: as long as the client waits)
    DROP = "drop"                  # connection closed before the call takes effect
    LOST_ANSWER = "lost_answer"    # (effect) connection closed instead of the answer
    HTTP = "http"                  # ``status`` with ``text``; Retry-After: ``seconds`` if positive
    AUTH_REVOKED = "auth_revoked"  # 401, as if the key had been withdrawn
    REFUSE_PUSH = "refuse_push"    # HTTP 200 with ``error``: ``text``
    SESSION_COUNT = "session_count"      # HTTP 200 with Kaggle's words for too many sessions
    QUOTA_EXHAUSTED = "quota_exhausted"  # HTTP 200 with Kaggle's words for no quota left
    ODD_BODY = "odd_body"          # HTTP 200, JSON content type, body exactly ``text``
    TRUNCATED = "truncated"        # Download: full Content-Length, half of the bytes
    CORRUPTED = "corrupted"        # Download: one bit flipped, length right
    MISSING = "missing"            # Download: 404 for a file that the listing names
    # Rented machines: what the call concerns, or makes, meets it; the call itself goes on as usual.
    PREEMPT = "preempt"            # it is taken away, ``seconds`` nominal after it was told (SIGTERM)
    COLD_START = "cold_start"      # it takes ``seconds`` nominal to come up (0: it never does)
    PRICE = "price"                # before the call: every price is multiplied by the number in ``text``
    OUT_OF_MEMORY = "out_of_memory"  # the far end's device has run out of memory


@dataclass(slots=True)
class Fault:
    """One rule. seconds: for DELAY, HANG and Retry-After. status, text: see ``FaultKind``."""

    on: str
    kind: FaultKind
    times: int = 1
    after: int = 0
    seconds: float = 0.0
    status: int = 503
    text: str = ""
    seen: int = 0

    @classmethod
    def parse(cls, rule: Mapping[str, Any]) -> Fault:
        """From JSON. Raises ValueError naming what is wrong with the rule."""
        known = {f.name for f in fields(cls)} - {"seen"}
        if extra := set(rule) - known:
            raise ValueError(f"a fault rule knows {sorted(known)}, not {sorted(extra)}")
        if "on" not in rule or "kind" not in rule:
            raise ValueError("a fault rule needs 'on' and 'kind'")
        try:
            kind = FaultKind(rule["kind"])
        except ValueError as bad:
            raise ValueError(f"no fault {rule['kind']!r}: one of {[*map(str, FaultKind)]}") from bad
        fault = cls(**{**rule, "kind": kind})
        if min(fault.times, fault.after) < 0 or fault.seconds < 0:
            raise ValueError("times, after and seconds are not negative")
        if fault.kind is FaultKind.HTTP and not 400 <= fault.status <= 599:
            raise ValueError(f"an http fault is a status from 400 to 599, not {fault.status}")
        return fault

    def fires(self) -> bool:
        """Count one matching call; True if it is one of those that fail."""
        self.seen += 1
        return self.seen > self.after and (self.times == 0 or self.seen <= self.after + self.times)


class FaultScript:
    """The rules in force. Safe to change from another thread while the server runs.

    within: calls that "*" does not mean, because the cloud's own machines make them.
    """

    def __init__(self, rules: Iterable[Mapping[str, Any]] = (), within: Collection[str] = ()) -> None:
        self._lock = threading.Lock()
        self._within = frozenset(within)
        self._rules: list[Fault] = []
        self.set(rules)

    def set(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Replace every rule. Raises ValueError and changes nothing if one of them is malformed."""
        parsed = [Fault.parse(rule) for rule in rules]
        with self._lock:
            self._rules = parsed

    def take(self, method: str) -> Fault | None:
        """The fault that this call of ``method`` meets, or None."""
        with self._lock:
            for rule in self._rules:
                meant = rule.on == method or (rule.on == "*" and method not in self._within)
                if meant and rule.fires():
                    return rule
        return None
