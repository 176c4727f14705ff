"""RunPod's calls, one method each. Guarantee: one call is one request, and an odd answer raises, never lies.

Evidence: docs.runpod.io api-reference-v2/openapi.json (repository runpod/docs, commit a900806, 2026-08-20),
schema and operation names in brackets, as runpod 2.0.0rc2 speaks it (api/{rest,ctl_commands}.py); the data
plane: docs serverless/endpoints/{operation-reference,send-requests}.mdx of that commit and runpod 2.0.0rc2,
endpoint/runner.py; the balance, by GraphQL (to be retired early in 2027): docs
runpodctl/reference/runpodctl-user.mdx. REST v1 was retired on 2026-11-15 and is not spoken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

from accel.core.errors import NoCapacity, ProviderError, Rejected, Unauthorised, Unreachable
from accel.core.money import NANO, NanoUSD
from accel.providers.transport import NotFound, Transport

NAME = "runpod"
CONTROL, DATA = "https://api.runpod.io", "https://api.runpod.ai/v2"
PROXY = "https://{pod}-{port}.proxy.runpod.net"  # docs pods/configuration/expose-ports.mdx
# "capacity exhaustion currently carries no machine-readable code of its own" ([createPod]): 400 and words.
# The first four are those of runpod 2.0.0rc2, apps/api.py:148-158.
NO_CAPACITY = (
    "resources to deploy your pod", "insufficient capacity", "no available machine", "out of stock",
    "no longer any instances available", "could not be placed",
)  # fmt: skip
# One body of the data plane (operation-reference.mdx, "Maximum payload size": 10 MB of /run, 20 of /runsync)
RUNSYNC_BYTES = 20_000_000
WAIT_MS = 1000  # the least that /runsync may wait before it tells the job's id


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key; "" where there is none. Never shown."""

    key: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.key)


class RunPodCalls:
    """The account of ``credentials``. endpoint: a sandbox's URL, which holds all of RunPod's addresses."""

    def __init__(self, credentials: Credentials, endpoint: str | None, call_s: float) -> None:
        headers = {"Authorization": f"Bearer {credentials.key}"}

        def transport(url: str) -> Transport:
            return Transport(url, provider=NAME, headers=headers, timeout_s=call_s, classify=_classify)

        self.control_url = endpoint or CONTROL
        self.proxy = f"{endpoint}/proxy/{{pod}}-{{port}}" if endpoint else PROXY
        self._control = transport(self.control_url)
        self._data = transport(f"{endpoint}/ai/v2" if endpoint else DATA)

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._control.aclose()
        await self._data.aclose()

    # --- what there is, and what it costs

    async def gpus(self, product: str, cloud: str) -> list[dict[str, Any]]:
        """[listGpuTypes] with stock. product: POD or SERVERLESS. cloud: SECURE or COMMUNITY, whose stock."""
        params = {"include": "AVAILABILITY", "product": product}
        params |= {"cloud": cloud} if product == "POD" else {}
        return await self._listed("v2/catalog/gpus", "gpus", params)

    async def balance(self) -> NanoUSD | None:
        """Dollars paid in and not used; None where GraphQL does not tell (any more)."""
        try:
            body = {"query": "query { myself { clientBalance } }"}
            told = (await self._control.request("POST", "graphql", body=body)).mapping()
            return nano(told["data"]["myself"]["clientBalance"])
        except Unauthorised:
            raise
        except (ProviderError, KeyError, TypeError, ValueError):
            return None

    async def billed(self, kind: str, ident: str, since: datetime) -> NanoUSD | None:
        """What [listPodBilling] ("pods") or [listServerlessBilling] ("serverless") has of one thing.

        None while it has no record. Nano-dollars: records hold doubles, which are rounded once each.
        """
        name = {"pods": "podId", "serverless": "serverlessId"}[kind]
        params = {name: ident, "bucketSize": "day", "startTime": f"{since:%Y-%m-%dT00:00:00Z}"}
        records = await self._listed(f"v2/billing/{kind}", "records", params)
        try:
            amounts = [nano(r["totalAmount"]) for r in records if r[name] == ident]
        except (KeyError, TypeError, ValueError):
            raise _unreadable("its billing records") from None
        return NanoUSD(sum(amounts)) if amounts else None

    # --- pods

    async def create_pod(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """[createPod]. Raises NoCapacity where RunPod says so in words."""
        return _thing((await self._control.request("POST", "v2/pods", body=body)).mapping(), "pod")

    async def pod(self, ident: str) -> dict[str, Any] | None:
        """[getPod]; None when RunPod itself says that there is none."""
        return await self._one(f"v2/pods/{quote(ident, safe='')}", "pod")

    async def pods(self) -> list[dict[str, Any]]:
        """[listPods]: all of the account's. There are no pages."""
        return [_thing(p, "pod") for p in await self._listed("v2/pods", "pods", {})]

    async def delete_pod(self, ident: str) -> None:
        """[deletePod]. Raises NotFound."""
        await self._control.request("DELETE", f"v2/pods/{quote(ident, safe='')}")

    # --- endpoints

    async def endpoints(self) -> list[dict[str, Any]]:
        """[listServerless]."""
        return [_thing(e, "endpoint") for e in await self._listed("v2/serverless", "endpoints", {})]

    async def create_endpoint(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """[createServerless]."""
        return _thing((await self._control.request("POST", "v2/serverless", body=body)).mapping(), "endpoint")

    async def endpoint(self, ident: str) -> dict[str, Any] | None:
        """[getServerless]; None when RunPod itself says that there is none."""
        return await self._one(f"v2/serverless/{quote(ident, safe='')}", "endpoint")

    async def delete_endpoint(self, ident: str) -> None:
        """[deleteServerless]: its workers are terminated, its jobs cancelled. Raises NotFound."""
        await self._control.request("DELETE", f"v2/serverless/{quote(ident, safe='')}")

    # --- the data plane

    async def run_sync(self, endpoint: str, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """/runsync: the job as it is after ``WAIT_MS`` at most (runner.py:239-250 reads the same)."""
        answer = await self._data.request(
            "POST", f"{endpoint}/runsync", params={"wait": WAIT_MS}, body=body, timeout_s=timeout_s
        )
        return _job(answer.mapping())

    async def job(self, endpoint: str, job: str) -> dict[str, Any]:
        """/status. Raises NotFound for one whose time to live, or whose result's, is over."""
        return _job((await self._data.request("GET", f"{endpoint}/status/{quote(job, safe='')}")).mapping())

    async def cancel(self, endpoint: str, job: str) -> None:
        """/cancel."""
        await self._data.request("POST", f"{endpoint}/cancel/{quote(job, safe='')}")

    async def health(self, endpoint: str) -> dict[str, int]:
        """/health: workers by state (idle, initializing, ready, running, throttled)."""
        told = (await self._data.request("GET", f"{endpoint}/health")).mapping().get("workers")
        if not isinstance(told, dict) or not all(isinstance(n, int) for n in told.values()):
            raise _unreadable("an endpoint's health")
        return dict(told)

    # --- inside

    async def _one(self, path: str, what: str) -> dict[str, Any] | None:
        try:
            return _thing((await self._control.request("GET", path)).mapping(), what)
        except NotFound:
            return None

    async def _listed(self, path: str, name: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = (await self._control.request("GET", path, params=params)).mapping().get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _unreadable(f"its list of {name}")
        return rows


def nano(amount: Any) -> NanoUSD:
    """Dollars of a JSON number as nano-dollars, exactly as its digits say. Raises ValueError for another."""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise ValueError("not a number")
    try:
        return NanoUSD(int((Decimal(repr(amount)) * NANO).to_integral_value()))
    except (InvalidOperation, OverflowError):
        raise ValueError("not an amount") from None


def _thing(told: Any, what: str) -> dict[str, Any]:
    named = isinstance(told, dict) and all(isinstance(told.get(k), str) and told[k] for k in ("id", "name"))
    if not named:
        raise _unreadable(f"what it tells of a {what}")
    return told


def _job(told: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(told.get("id"), str) or not isinstance(told.get("status"), str):
        raise _unreadable("what it tells of a request")
    return told


def _unreadable(what: str) -> Unreachable:
    return Unreachable(f"{what} cannot be read.", provider=NAME)


def _classify(status: int, told: Mapping[str, Any], text: str) -> ProviderError | None:
    """What RunPod means where the status alone does not say it; None: what the status says."""
    if status == 404 and not said(told):
        # a proxy's or a load balancer's, which knows nothing of pods
        return Unreachable("HTTP 404 without a word of RunPod's.", provider=NAME)
    if status == 400 and any(words in text.lower() for words in NO_CAPACITY):
        return NoCapacity(text, provider=NAME)
    if status == 402:
        return Unauthorised(f"HTTP 402: {text}", provider=NAME, hint="Add credits to your account.")
    if status == 401:
        return Unauthorised(f"HTTP 401: {text}", provider=NAME, hint="Check RUNPOD_API_KEY.")
    if status == 413:
        return Rejected(f"HTTP 413: {text}", provider=NAME)
    return None


def said(told: Mapping[str, Any]) -> bool:
    """Whether an error is RunPod's own: [ErrorResponse], or the data plane's {"error"}."""
    fields: Sequence[str] = ("detail", "title", "error")
    return any(isinstance(told.get(name), str) and told[name] for name in fields)
