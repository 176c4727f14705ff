"""Vast.ai's calls, one method each, as plain values. Guarantee: an answer that says nothing raises.

Every method is one request, but those that page. Evidence: vastai 1.9.1 as installed (``client``, ``offers``,
``instances``, ``billing`` = vastai/api/*.py), dstack 0.22.5 (backends/vastai), docs.vast.ai as read on
2026-11-24. All but those that say v1 stand under /api/v0 (client.py:138-150); what is no text in a query
string is JSON (client.py:145-150).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from accel.core.errors import NoCapacity, ProviderError, Unauthorised, Unreachable
from accel.core.money import NANO, NanoUSD
from accel.providers.transport import Answer, NotFound, Transport

NAME = "vast"
REAL = "https://console.vast.ai"  # client.py:19
PAGE, MAX_PAGES = 25, 200  # the largest page of instances: instances.py:42
CHARGES_PAGE = 100  # billing.py:143
CREDIT_HINT = "Add credit on Vast.ai's billing page."
SEALED = "ACCEL_ENV"  # what a container is told, as one word; see ``seal``


class LeftBehind(NoCapacity):
    """Refused, and yet a contract was made: a bid that is too low leaves a stopped one, whose disk is billed
    (dstack api_client.py:18-31)."""

    def __init__(self, message: str, contract: int) -> None:
        self.contract = contract
        super().__init__(message, provider=NAME)


@dataclass(frozen=True, slots=True)
class Instance:
    """One contract as Vast.ai shows it. status: ``actual_status``, "" for null (provisioning). ports: a
    container's own → at ``ip``. env: what it was told; holds secrets, and is not shown."""

    id: int
    label: str
    status: str
    said: str
    stopped: bool
    nano_per_hour: int
    began: datetime
    ip: str = ""
    ports: Mapping[int, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def failed(self) -> str:
        """Why it will never run, "" if it may: vastai/SKILL.md, "Poll loop warning"; dstack compute.py."""
        if self.status in ("exited", "unknown", "offline"):
            return f"its status is {self.status}"
        if self.status == "created" and "OCI runtime create failed" in self.said:
            return f"its container cannot be made: {self.said}"
        return ""


class VastCalls:
    """The calls of one account. All raise ``core.errors.ProviderError`` subclasses.

    key: the account's. base_url: the provider, or a sandbox. call_s: seconds for one request.
    """

    def __init__(self, key: str, base_url: str, call_s: float) -> None:
        self._http = Transport(
            base_url, provider=NAME, headers={"Authorization": f"Bearer {key}"}, timeout_s=call_s,
            classify=self._classify,
        )  # fmt: skip
        self.aclose = self._http.aclose

    async def search(self, query: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """POST /bundles/ (offers.py:12-56): the offers that pass ``query``."""
        told = await self._told("POST", "/api/v0/bundles/", body=dict(query))
        return _rows(told, "offers")

    async def create(self, ask: int, body: Mapping[str, Any]) -> int:
        """PUT /asks/{id}/ (instances.py:233-312): the contract's number. Raises LeftBehind, NoCapacity."""
        try:
            told = await self._told("PUT", f"/api/v0/asks/{ask}/", body=dict(body))
        except NotFound as gone:
            raise NoCapacity("the offer is gone.", provider=NAME) from gone
        contract = told.get("new_contract")
        if told.get("success") is False:
            words = self._http.clean(str(told.get("msg") or told.get("error") or "refused"))
            raise self._classify(400, told, words) or NoCapacity(words, provider=NAME)
        if not isinstance(contract, int):
            raise Unreachable("its answer to the order says nothing.", provider=NAME)
        return contract

    async def instance(self, ident: str) -> Instance | None:
        """GET /instances/{id}/ (instances.py:90-98): null, or 404, for one that is not there."""
        try:
            told = await self._told("GET", f"/api/v0/instances/{ident}/", params={"owner": "me"})
        except NotFound:
            return None
        if "instances" not in told:
            raise Unreachable("its answer about an instance says nothing.", provider=NAME)
        return None if told["instances"] is None else self._instance(told["instances"])

    async def instances(self) -> list[Instance]:
        """GET /api/v1/instances/ (instances.py:30-79), page by page: all of the account's.

        No filter: what the list counts then is what it holds. Raises Unreachable for a list that does not
        agree with its own count, and for an empty one that does not say that it is: unknown is not none.
        """
        found: list[Instance] = []
        params = {"select_filters": "{}", "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
                  "limit": str(PAGE)}  # fmt: skip
        for _ in range(MAX_PAGES):
            told = await self._told("GET", "/api/v1/instances/", params=params)
            found += map(self._instance, _rows(told, "instances"))
            if token := told.get("next_token"):
                params["after_token"] = str(token)
                continue
            total = told.get("total_instances")
            if total != len(found) and not (total is None and found):
                break
            return found
        raise Unreachable("its list of instances is odd: unknown is not none.", provider=NAME)

    async def destroy(self, ident: int | str) -> None:
        """DELETE /instances/{id}/ (instances.py:319-331); what is not there need not be destroyed."""
        try:
            told = await self._told("DELETE", f"/api/v0/instances/{ident}/", body={})
        except NotFound:
            return
        if told.get("success") is not True and told.get("error") != "no_such_instance":
            raise Unreachable("it did not say that it destroys the instance.", provider=NAME)

    async def credit(self) -> NanoUSD:
        """GET /users/current (billing.py:231-246): dollars that can be spent."""
        told = await self._told("GET", "/api/v0/users/current/")
        return NanoUSD(math.floor(_decimal(told.get("credit")) * NANO))

    async def charged(self, ident: str, since: datetime, now: datetime) -> NanoUSD | None:
        """GET /charges/ (billing.py:81-176): what one instance cost; None while it is not told, or runs on.

        A row's source is "instance-<number>" (vastai/cli/commands/billing.py:158-160).
        """
        day = timedelta(days=1)
        span = {"gte": int((since - day).timestamp()), "lte": int((now + day).timestamp())}
        params = {
            "select_filters": json.dumps({"day": span, "type": {"in": ["instance"]}}), "format": "table",
            "latest_first": "false", "limit": str(CHARGES_PAGE),
        }  # fmt: skip
        ours: list[Mapping[str, Any]] = []
        for _ in range(MAX_PAGES):
            told = await self._told("GET", "/api/v0/charges/", params=params)
            ours += [r for r in _rows(told, "results") if r.get("source") == f"instance-{ident}"]
            if not told.get("next_token"):
                break
            params["after_token"] = str(told["next_token"])
        else:
            raise Unreachable("its list of charges does not end.", provider=NAME)
        if not ours or any(row.get("end") is None for row in ours):
            return None
        return NanoUSD(round(sum(_decimal(row.get("amount")) for row in ours) * NANO))

    # --- inside

    async def _told(self, method: str, path: str, **how: Any) -> Mapping[str, Any]:
        answer: Answer = await self._http.request(method, path, **how)
        answer.mapping()  # raises for what is no JSON object
        told: Mapping[str, Any] = json.loads(answer.body, parse_float=Decimal)  # money is not a float
        return told

    def _instance(self, row: Any) -> Instance:
        """A row that the adapter can rely on. Raises Unreachable for one that lacks what it is asked for."""
        try:
            states = {row.get(name) for name in ("cur_state", "intended_status", "next_state")}
            ports = {
                int(name.split("/")[0]): int(to[0]["HostPort"])
                for name, to in (row.get("ports") or {}).items() if name.endswith("/tcp") and to
            }  # fmt: skip
            return Instance(
                int(row["id"]), str(row.get("label") or ""), str(row["actual_status"] or ""),
                self._http.clean(str(row.get("status_msg") or "")),
                states == {"stopped"},  # dstack compute.py, update_provisioning_data
                nano(row.get("dph_total") or 0), datetime.fromtimestamp(float(row["start_date"]), UTC),
                str(row.get("public_ipaddr") or "").strip(), ports,
                {str(pair[0]): str(pair[1]) for pair in row.get("extra_env") or ()},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            raise Unreachable("an instance cannot be read.", provider=NAME) from None

    @staticmethod
    def _classify(status: int, told: Mapping[str, Any], words: str) -> ProviderError | None:
        """Vast.ai's codes, where HTTP's status does not say it: {"success", "error", "msg"}."""
        text = f"HTTP {status}" + (f": {words}" if words else ".")
        if isinstance(contract := told.get("new_contract"), int):
            return LeftBehind(text, contract)
        if told.get("error") == "insufficient_credit":
            # 400, "Your account lacks credit; see the billing page." (public logs of users, 2026)
            return Unauthorised(text, provider=NAME, hint=CREDIT_HINT)
        if status == 410 or told.get("error") in ("no_such_ask", "invalid_price"):
            return NoCapacity(text, provider=NAME)  # rented meanwhile, or dearer than it was
        return None


def nano(dollars: Any) -> int:
    """Dollars of JSON as nano-dollars, rounded up. Raises ValueError for what is no amount."""
    return math.ceil(_decimal(dollars) * NANO)


def seal(env: Mapping[str, str]) -> str:
    """An environment as one word without quotes, spaces or line ends, which no shell on the way can spoil."""
    return base64.b64encode(json.dumps(dict(env)).encode()).decode()


def unseal(word: str) -> dict[str, str]:
    """Inverse of ``seal``; {} for anything else."""
    try:
        return {str(k): str(v) for k, v in json.loads(base64.b64decode(word, validate=True)).items()}
    except (ValueError, AttributeError):
        return {}


def _decimal(value: Any) -> Decimal:
    try:
        found = Decimal(value if isinstance(value, int | Decimal | str) else str(value))
    except InvalidOperation:
        raise Unreachable("an amount cannot be read.", provider=NAME) from None
    if isinstance(value, bool) or not found.is_finite():
        raise Unreachable("an amount cannot be read.", provider=NAME)
    return found


def _rows(told: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = told.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Unreachable(f"it told no {name}.", provider=NAME)
    return rows
