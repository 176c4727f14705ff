"""Modal's calls one by one, through its generated stubs. Guarantee: each is one request, and typed.

Where Modal's public classes say too little: what state an app is in, which calls a function has had, how one
ended and what it returned, what was billed. Evidence: modal 1.6.4; ``cli`` = modal/cli, ``fn`` =
modal/_functions.py. An answer without what it must hold is ``Unreachable``: no usable answer.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from accel.core.errors import BadOutput, Unreachable
from accel.core.money import NANO, NanoUSD
from accel.providers.modal_client import NAME, ModalClient, NotFound
from accel.providers.reach import LOOPBACK

T = TypeVar("T")
# enum AppState and GenericResult.GenericStatus of modal_proto/api_pb2 1.6.4
GONE = (5, 7)  # stopped, disabled
STOPPED = 5
SUCCESS, TERMINATED, TIMEOUT, INTERNAL_FAILURE = 1, 3, 4, 6
EVICTED = (8, 9, 10)  # taken for its memory
WAITING = 1  # enum FunctionCallInputStatus: pending


@dataclass(frozen=True, slots=True)
class AppSeen:
    """One row of the list of apps."""

    id: str
    name: str
    gone: bool
    tasks: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A deployed function."""

    app_id: str
    function_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How an input ended. data, blob: what it returned, here or elsewhere. attempts: before this one."""

    status: int
    words: str
    data: bytes
    blob: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One input, as Modal's own command line lists it. cold_s: of its container, where that is told."""

    call_id: str
    waiting: bool
    cold_s: float


class ModalCalls:
    """See the module's guarantee. environment: of all calls, "" for the account's default."""

    def __init__(self, client: ModalClient, environment: str) -> None:
        self.client, self.environment = client, environment

    async def apps(self) -> list[AppSeen]:
        """cli/app.py:149: those that run, and some that were stopped."""
        answer = await self._ask("AppList", "AppListRequest", environment_name=self.environment)
        rows = []
        for item in answer.apps:
            if not item.app_id or not item.state:
                raise _odd("its list of apps holds a row without id or state")
            created, name = datetime.fromtimestamp(item.created_at, UTC), item.name or item.description
            rows.append(AppSeen(item.app_id, name, item.state in GONE, item.n_running_tasks, created))
        return rows

    async def containers(self, app_id: str = "") -> set[str]:
        """cli/container.py:56: the apps that have containers now."""
        answer = await self._ask("TaskList", "TaskListRequest", app_id=app_id,
                                 environment_name=self.environment)  # fmt: skip
        if any(not t.task_id or not t.app_id for t in answer.tasks):
            raise _odd("its list of containers holds a row without id")
        return {t.app_id for t in answer.tasks}

    async def function(self, app: str, tag: str) -> Found:
        """fn:824: a function of a deployed app, by name. Raises NotFound."""
        answer = await self._ask("FunctionGet", "FunctionGetRequest", app_name=app, object_tag=tag,
                                 environment_name=self.environment)  # fmt: skip
        if not answer.function_id or not answer.handle_metadata.app_id:
            raise _odd("a function without its ids")
        return Found(answer.handle_metadata.app_id, answer.function_id)

    async def app(self, name: str) -> AppSeen:
        """cli/app.py:104: the app that is deployed under a name. Raises NotFound."""
        answer = await self._ask("AppGetByDeploymentName", "AppGetByDeploymentNameRequest", name=name,
                                 environment_name=self.environment)  # fmt: skip
        if not answer.environment_name:
            raise _odd("no environment")
        if not answer.app_id:
            raise NotFound(f"no app {name} is deployed.", provider=NAME)
        created = datetime.fromtimestamp(answer.lifecycle.created_at, UTC)
        return AppSeen(answer.app_id, name, False, 0, created)

    async def inputs(self, function_id: str) -> list[Seen]:
        """cli/function.py:1034: the newest inputs of a function."""
        from modal_proto import api_pb2

        tail = api_pb2.FunctionCallFetchRequest.Tail(count=10)
        answer = await self._ask("FunctionCallFetch", "FunctionCallFetchRequest", function_id=function_id,
                                 tail=tail)  # fmt: skip
        rows = answer.function_call_inputs
        if any(not r.function_call_id for r in rows):
            raise _odd("a call without its id")
        return [Seen(r.function_call_id, r.status == WAITING, r.startup_time_seconds) for r in rows]

    async def has_run(self, app_id: str) -> bool:
        """Whether a container ever took an input of the app's functions: one request, and one for each."""
        layout = await self._ask("AppGetLayout", "AppGetLayoutRequest", app_id=app_id)
        for function_id in layout.app_layout.function_ids.values():
            if any(not seen.waiting for seen in await self.inputs(function_id)):
                return True
        return False

    async def ended(self, call_id: str) -> Ended | None:
        """fn:196-222, asked without waiting: None while it is not over. Raises NotFound."""
        answer = await self._ask(
            "FunctionGetOutputs", "FunctionGetOutputsRequest", function_call_id=call_id, timeout=0,
            last_entry_id="0-0", start_idx=0, end_idx=0,
        )  # fmt: skip
        if not answer.outputs:
            if answer.num_unfinished_inputs:
                return None
            raise _odd("a call that is over and has no output")  # expired, says fn:357
        item = answer.outputs[0]
        result = item.result
        return Ended(result.status, self.client.clean(result.exception), result.data, result.data_blob_id,
                     item.retry_count)  # fmt: skip

    async def stop(self, app_id: str) -> None:
        """modal/app.py:1741. Raises NotFound."""
        await self._ask("AppStop", "AppStopRequest", app_id=app_id)

    async def stopped_at(self, app_id: str) -> datetime | None:
        """cli/app.py:95: when the app was stopped; None while it is not. Raises NotFound."""
        answer = await self._ask("AppGetLifecycle", "AppGetLifecycleRequest", app_id=app_id)
        if not answer.lifecycle.app_state:
            raise _odd("an app without a state")
        if answer.lifecycle.app_state not in GONE:
            return None
        return datetime.fromtimestamp(answer.lifecycle.stopped_at, UTC)

    async def rates(self) -> dict[str, str]:
        """modal/_workspace.py:367: what Modal charges, under its own names."""
        answer = await self._ask("WorkspaceBillingRates", "WorkspaceBillingRatesRequest")
        return dict(answer.rates)

    async def billed(self, app_id: str, start: datetime, end: datetime) -> NanoUSD | None:
        """modal/_workspace.py:432-443: what the app cost in the whole hours between; None for no row."""

        async def ask(inner: Any) -> list[Any]:
            from modal_proto import api_pb2

            request = api_pb2.WorkspaceBillingReportRequest(resolution="h", app_ids=[app_id])
            request.start_timestamp.FromDatetime(start)
            request.end_timestamp.FromDatetime(end)
            return [row async for row in inner._stub.WorkspaceBillingReport.unary_stream(request)]

        rows = [r for r in await self.client.run(ask) if r.object_id == app_id]
        if not rows:
            return None
        total = sum((Decimal(r.cost) for r in rows), Decimal(0)) * NANO
        return NanoUSD(math.ceil(total))

    async def returned(self, ended: Ended, limit: int) -> bytes:
        """The bytes that a function returned. Raises BadOutput for anything else."""
        data = ended.data
        if ended.blob:
            answer = await self._ask("BlobGet", "BlobGetRequest", blob_id=ended.blob)
            data = await self._download(answer.download_url, limit)
        return only_bytes(data)

    async def _download(self, url: str, limit: int) -> bytes:
        """One GET. Raises BadOutput if it is cut off, missing, too long, or not where Modal's files are."""
        parts = urlsplit(url)
        sandbox = self.client.endpoint is not None
        if (parts.scheme, parts.hostname in LOOPBACK) != (("http", True) if sandbox else ("https", False)):
            raise BadOutput("an output's address is not one of Modal's.", provider=NAME)
        body = bytearray()
        try:
            async with (
                httpx.AsyncClient(trust_env=not sandbox, timeout=self.client.call_s) as http,
                http.stream("GET", url) as answer,
            ):
                if answer.status_code >= 500 or answer.status_code == 429:
                    raise Unreachable(f"its storage answers {answer.status_code}.", provider=NAME)
                if answer.status_code != 200:
                    raise BadOutput(f"its storage answers {answer.status_code}.", provider=NAME)
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise BadOutput(f"an output of more than {limit:,} bytes.", provider=NAME)
        except httpx.RemoteProtocolError:
            raise BadOutput(f"the download was cut off after {len(body)} bytes.", provider=NAME) from None
        except httpx.HTTPError as lost:
            raise Unreachable(f"no download ({type(lost).__name__}).", provider=NAME) from None
        return bytes(body)

    async def _ask(self, rpc: str, message: str, **fields: Any) -> Any:
        """One RPC without the SDK's retries (modal/_grpc_client.py:126-128)."""

        async def ask(inner: Any) -> Any:
            from modal_proto import api_pb2

            request = getattr(api_pb2, message)(**fields)
            return await getattr(inner._stub, rpc)(request, retry=None, timeout=self.client.call_s)

        return await self.client.run(ask)


# The opcodes of one bytes object, and those that only frame it (Python's pickletools, protocols 3 to 5).
BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
FRAMING = ("PROTO", "FRAME", "MEMOIZE", "STOP")


def only_bytes(data: bytes) -> bytes:
    """The bytes object that Modal's engine pickled. Raises BadOutput for anything else.

    Its opcodes are read, none is run.
    """
    found: list[Any] = []
    try:
        for opcode, value, _ in pickletools.genops(data):
            if opcode.name in BYTES:
                found.append(value)
            elif opcode.name not in FRAMING:
                raise ValueError(opcode.name)
    except (ValueError, UnicodeError, OverflowError, MemoryError) as bad:
        raise BadOutput(f"an output cannot be read ({type(bad).__name__}).", provider=NAME) from None
    if len(found) != 1:
        raise BadOutput("an output is not bytes.", provider=NAME)
    return bytes(found[0])


def _odd(what: str) -> Unreachable:
    return Unreachable(f"an odd answer: {what}.", provider=NAME)


def named(rows: Sequence[AppSeen], prefix: str) -> list[AppSeen]:
    """Those that exist and are called ``prefix``…"""
    return [r for r in rows if r.name.startswith(prefix) and not r.gone]
