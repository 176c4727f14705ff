"""The official Colab API's calls as plain values. Guarantee: one call is one request; an odd answer raises.

Evidence: the discovery document ``colaboratory`` v1beta, revision 20261104, as google-api-python-client
2.202.0 ships it (googleapiclient/discovery_cache/documents/colaboratory.v1beta.json); operations are asked
for in v1 (colaboratory.v1.json), the one version that has them. The vendor's client is 111 MB installed;
these are eight calls, and the sandbox that they are tested against is driven by it in ``make conformance``.

What the document does not tell: the reasons of a refusal (``ErrorInfo.reason`` of code 9; read here by their
words, and anything else counts as "nothing free now"), and whether a runtime is shown before its operation is
done (taken here as not shown). The balance of compute units is not in the API: it is asked where Google's own
command line asks it, ``GET /tun/m/ccu-info`` (google-colab-cli 0.7.5, client.py:245-249), and is None
wherever that does not answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from accel.core.errors import (
    BadOutput,
    NoCapacity,
    ProviderError,
    QuotaExhausted,
    Rejected,
    Unauthorised,
    Unreachable,
)
from accel.core.task import content_hash
from accel.providers.colab_auth import NAME, Bearer, with_hint
from accel.providers.transport import Answer, NotFound, Transport

API = "https://colaboratory.googleapis.com"
FRONT = "https://colab.research.google.com"  # client.py:60 of the command line
PAID = ("PRO", "PRO_PLUS")
_QUOTA = ("QUOTA", "LIMIT", "BALANCE", "COMPUTE_UNIT", "EXHAUST")
_NEVER = ("ELIGIB", "ENTITLE", "PERMISSION", "NOT_ALLOWED", "DENIED", "UNSUPPORTED")


@dataclass(frozen=True, slots=True)
class Account:
    """tier: FREE, PRO, PRO_PLUS, or "" where it is not told. accelerators: those it may have, by Colab's
    names. balance: compute units left, units_per_hour: what they are used up at now; None: not known."""

    tier: str
    accelerators: frozenset[str]
    balance: float | None
    units_per_hour: float | None = None

    @property
    def unattended(self) -> bool:
        """Whether Colab's terms let a job run with nobody in front of it: only a balance does that."""
        return self.balance is not None and self.balance > 0


@dataclass(frozen=True, slots=True)
class Connection:
    """The way to a runtime's Jupyter server. The token is a secret and lasts until ``expires_at``."""

    url: str
    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the user's runtimes. name: "runtimes/ID". connection None: it cannot be reached yet."""

    name: str
    accelerator: str
    connection: Connection | None


@dataclass(frozen=True, slots=True)
class Operation:
    """The making of a runtime. error: why it was refused, once ``done``."""

    name: str
    done: bool
    error: ProviderError | None = None
    machine: Machine | None = None


class ColabCalls:
    """The calls of one account. To be closed. api, front: Google's, or a sandbox. timeout_s: one request."""

    def __init__(self, bearer: Bearer, api: str, front: str, timeout_s: float) -> None:
        self._bearer, self._api, self._front, self._timeout_s = bearer, api, front, timeout_s
        self._transports: dict[str, Transport] = {}
        self._signed_with = ""

    async def aclose(self) -> None:
        """Close the kept connections."""
        for transport in self._transports.values():
            await transport.aclose()
        await self._bearer.aclose()

    # --- the account

    async def account(self) -> Account:
        """Tier, eligible accelerators and balance: three requests."""
        tier = (await self._json("GET", "/v1beta/subscription")).get("tier", "")
        specs = (await self._json("GET", "/v1beta/runtimespecs")).get("runtimeSpecs")
        if not isinstance(tier, str) or not isinstance(specs, list):
            raise Unreachable("what it tells of the account cannot be read.", provider=NAME)
        tier = tier.removeprefix("SUBSCRIPTION_TIER_")
        try:
            found = frozenset(
                str(spec["key"]["accelerator"]) for spec in specs
                if spec.get("eligible") is True and spec["key"]["variant"] == "VARIANT_GPU"
                and spec["key"].get("shape") == "SHAPE_STANDARD"
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError):
            raise Unreachable("its list of runtimes to be had cannot be read.", provider=NAME) from None
        balance, rate = await self._units()
        return Account("" if tier == "UNSPECIFIED" else tier, found, balance, rate)

    async def _units(self) -> tuple[float | None, float | None]:
        """Compute units left, and how many an hour takes now; None where it is not told."""
        try:
            answer = await self._request("GET", f"{self._front}/tun/m/ccu-info?authuser=0", headers=_AGENT)
            told = json.loads(answer.body.removeprefix(b")]}'\n"))  # client.py:160-167
            return _units_of(told["currentBalance"]), _units_of(told["consumptionRateHourly"])
        except (ProviderError, ValueError, KeyError, TypeError, RecursionError):
            return None, None

    # --- runtimes

    async def create(self, ident: str, accelerator: str) -> Operation:
        """Ask for a runtime; repeating it for the same ``ident`` is the same operation.

        ident: RFC 1034, at most 63 characters. "The request ID must be in UUID4 format": it is made of
        ``ident``, and shaped so.
        """
        spec = {"variant": "VARIANT_GPU", "accelerator": accelerator, "shape": "SHAPE_STANDARD"}
        told = await self._json(
            "POST", "/v1beta/runtimes", params={"runtimeId": ident, "requestId": request_id(ident)},
            body={"runtimeSpec": spec},
        )  # fmt: skip
        return self._operation(told)

    async def operation(self, name: str) -> Operation:
        """Where the making of a runtime is. Raises NotFound for an operation that is forgotten."""
        return self._operation(await self._json("GET", f"/v1/{name}"))

    async def runtime(self, name: str) -> Machine | None:
        """One runtime ("runtimes/ID"), with a token that is fresh; None when there is none."""
        try:
            return _runtime(await self._json("GET", f"/v1beta/{name}"))
        except NotFound:
            return None

    async def runtimes(self) -> tuple[Machine, ...]:
        """All of the user's runtimes. Raises Unreachable for a list of another shape: the document knows one
        field, and leaves it out where there is none."""
        told = await self._json("GET", "/v1beta/runtimes")
        rows = told.get("runtimes", [])
        if set(told) - {"runtimes"} or not isinstance(rows, list):
            raise Unreachable("its list of runtimes is odd: unknown is not none.", provider=NAME)
        return tuple(map(_runtime, rows))

    async def delete(self, name: str) -> None:
        """Unassign it; done where there is none."""
        await self._json("DELETE", f"/v1beta/{name}", params={"allowMissing": "true"})

    # --- the wire

    async def _json(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        return (await self._request(method, f"{self._api}{path}", **how)).mapping()

    async def _request(self, method: str, url: str, **how: Any) -> Answer:
        token = await self._bearer.token()
        if token != self._signed_with:  # its secrets are struck out by the transport that holds it
            old, self._signed_with = self._transports.pop(self._signed_with, None), token
            self._transports[token] = Transport(
                self._api, provider=NAME, headers={"Authorization": f"Bearer {token}"},
                timeout_s=self._timeout_s,
            )  # fmt: skip
            if old is not None:
                await old.aclose()
        try:
            return await self._transports[token].request(method, url, **how)
        except Unauthorised as refused:
            self._bearer.forget()
            raise with_hint(refused, self._bearer.hint) from None
        except BadOutput as odd:
            raise Unreachable(odd.message.removeprefix(f"{NAME}: "), provider=NAME) from None

    def _operation(self, told: Mapping[str, Any]) -> Operation:
        name, done = told.get("name"), told.get("done", False)
        if not isinstance(name, str) or not name.startswith("operations/") or not isinstance(done, bool):
            raise Unreachable("its answer to the order says nothing.", provider=NAME)
        if isinstance(error := told.get("error"), dict):
            return Operation(name, True, refusal(error))
        made = told.get("response")
        return Operation(name, done, None, _runtime(made) if done and isinstance(made, dict) else None)


class Exists(Rejected):
    """A runtime with this id is there already (code 6): what was asked for once was made."""


def refusal(error: Mapping[str, Any]) -> ProviderError:
    """The class of a google.rpc.Status. Codes: google/rpc/code.proto, which the document links."""
    details = [d for d in error.get("details") or () if isinstance(d, dict)]
    reason = next((str(d["reason"]) for d in details if d.get("reason")), "")
    words = " ".join(f"{reason}: {error.get('message', '')}".strip(" :").split())[:300]
    code, known = error.get("code"), f"{reason} {error.get('message', '')}".upper()
    if code == 6:
        return Exists(words, provider=NAME)
    if code == 8 or (code == 9 and any(w in known for w in _QUOTA)):
        return QuotaExhausted(words, provider=NAME)
    if code in (7, 16):
        return Unauthorised(words, provider=NAME)
    if code in (3, 5, 11, 12) or (code == 9 and any(w in known for w in _NEVER)):
        return Rejected(words, provider=NAME)
    if code in (9, 10, 14):
        return NoCapacity(words, provider=NAME)
    return Unreachable(words or f"code {code}", provider=NAME)


def request_id(ident: str) -> str:
    """A UUID of version 4 by its shape, always the same for ``ident``."""
    return str(UUID(content_hash(b"colab", ident.encode())[:32], version=4))


def _runtime(told: Any) -> Machine:
    try:
        name, accelerator = str(told["name"]), str(told["runtimeSpec"]["accelerator"])
        way = told.get("connectionInfo")
        if not name.startswith("runtimes/"):
            raise ValueError(name)
        if not way:
            return Machine(name, accelerator, None)
        expires = datetime.fromisoformat(str(way["expireTime"])).astimezone(UTC)
        return Machine(name, accelerator, Connection(str(way["url"]), str(way["token"]), expires))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unreachable("what it tells of a runtime cannot be read.", provider=NAME) from None


def _units_of(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value >= 0 else None


_AGENT = {"X-Colab-Client-Agent": "accel", "Accept": "application/json"}
