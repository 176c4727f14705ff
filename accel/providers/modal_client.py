"""Modal's SDK, held to our rules. Guarantee: a request goes out once, with our credentials, to our address.

What modal 1.6.4 would do by itself, and what is done about it:
- It takes its address and token from the environment and ~/.modal.toml (modal/config.py:370-425). The client
  is made with ours, as ``Client.verify`` makes one (modal/client.py:509).
- It tries a failed request again, 3 times and more, and for as long as the server asks it to wait
  (_utils/grpc_utils.py:539-680). Every attempt bears its number (``x-retry-attempt``); a listener on the
  channel lets none but the first out, and makes an error of what would be tried again as soon as it comes.
- It connects to a dead server for 63 s (grpc_utils.py:428). A loopback address is knocked at first, and the
  connecting has our own limit.
- It sends the commit, author and remote address of whatever git checkout it runs in with every deployment
  (_utils/git_utils.py, runner.py:580): the message leaves without them.

Uploads of blobs are the one thing it still repeats (3 times, _utils/blob_utils.py:116): the same bytes to the
same address. Its code runs on its own thread and loop; ``run`` goes there and comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from accel.core.errors import (
    JobFailed,
    OutOfMemory,
    Preempted,
    ProviderError,
    RateLimited,
    Rejected,
    TimedOut,
    Unauthorised,
    Unreachable,
)

NAME = "modal"
T = TypeVar("T")
SERVERS = "https://api.modal.com,https://api.modal2.com"  # modal/config.py:117
# gRPC codes (grpc.io, "Status codes"): what of a refusal is ours to read
CANCELLED, UNKNOWN, DEADLINE, NOT_FOUND, DENIED, EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNSIGNED = (
    1, 2, 4, 5, 7, 8, 13, 14, 15, 16,
)  # fmt: skip
NO_ANSWER = (CANCELLED, UNKNOWN, DEADLINE, INTERNAL, UNAVAILABLE, DATA_LOSS)
# The words that a used-up account is refused with are not known to us; any of these reads as one.
MONEY = ("spend", "billing", "payment", "credit", "budget")


@dataclass(frozen=True, slots=True)
class ModalCredentials:
    """A token's id and secret. Neither is ever shown by ``repr``."""

    token_id: str = field(default="", repr=False)
    token_secret: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.token_id and self.token_secret)

    def clean(self, text: str) -> str:
        """``text`` on one line of at most 300 characters, with both struck out."""
        for secret in (self.token_secret, self.token_id):
            if secret:
                text = text.replace(secret, "***")
        return " ".join(text.split())[:300]


class NotFound(Rejected):
    """Modal says that there is no such thing."""


class Denied(Unauthorised):
    """The token is good, but may not do this."""


class Refusal(Exception):
    """A gRPC status that the SDK would answer with another try; or, status 0, another try itself."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s


class ModalClient:
    """One account at one address. endpoint: loopback URL of a sandbox, or None. call_s: for one request.

    connect_s: to reach the server. Safe to use from any event loop.
    """

    def __init__(
        self, credentials: ModalCredentials, endpoint: str | None, *, call_s: float, connect_s: float = 10.0
    ) -> None:
        self._credentials, self.endpoint, self.call_s = credentials, endpoint, call_s
        self._connect_s = connect_s
        self._inner: Any = None
        self._guarded: set[int] = set()
        self._opening = asyncio.Lock()  # used on the SDK's loop alone

    def clean(self, text: str) -> str:
        """See ``ModalCredentials.clean``."""
        return self._credentials.clean(text)

    async def public(self) -> Any:
        """``modal.Client`` for the SDK's public calls. Raises ProviderError."""
        inner = await self.run(_itself)
        from modal._utils.async_utils import synchronizer

        return synchronizer._translate_out(inner)

    async def run(self, ask: Callable[[Any], Awaitable[T]], *, limit_s: float | None = None) -> T:
        """``await ask(modal's own _Client)`` on the SDK's loop. Raises ProviderError."""
        sdk = _sdk()

        async def there() -> T:
            return await ask(await self._opened())

        return await self.bounded(sdk.create_blocking(there).aio, limit_s=limit_s)

    async def bounded(self, make: Callable[[], Awaitable[T]], *, limit_s: float | None = None) -> T:
        """Await something of the SDK for ``limit_s`` at most; its errors as ours."""
        limit = limit_s or self.call_s + self._connect_s
        try:
            async with asyncio.timeout(limit):
                return await make()
        except TimeoutError:
            raise Unreachable(f"no answer within {limit:.0f} s.", provider=NAME) from None
        except ProviderError:
            raise
        except Exception as error:  # the SDK's own classes, grpclib's, protobuf's
            raise classify(error, self._credentials) from None

    async def close(self) -> None:
        """Let go of the connection; the next call opens another."""

        async def shut() -> None:
            inner, self._inner = self._inner, None
            self._guarded.clear()
            if inner is not None:
                await inner.close()

        if self._inner is not None:
            await _sdk().create_blocking(shut).aio()

    # --- on the SDK's loop

    async def _opened(self) -> Any:
        async with self._opening:
            if self._inner is None:
                self._inner = await self._open()
            return self._inner

    async def _open(self) -> Any:
        from modal.client import _Client
        from modal_proto import api_pb2

        if self.endpoint is not None:
            await self._knock()
        credentials = (self._credentials.token_id, self._credentials.token_secret)
        inner = _Client(self.endpoint or SERVERS, api_pb2.CLIENT_TYPE_CLIENT, credentials)
        plain = inner._get_channel

        async def guarded(server_url: str) -> Any:
            channel = await plain(server_url)
            if id(channel) not in self._guarded:
                self._guarded.add(id(channel))
                _guard(channel)
            return channel

        inner._get_channel = guarded  # type: ignore[method-assign]
        try:
            await asyncio.wait_for(inner._open(), self._connect_s)
        except BaseException:
            await inner.close()
            raise
        return inner

    async def _knock(self) -> None:
        parts = urlsplit(self.endpoint or "")
        try:
            opening = asyncio.open_connection(parts.hostname, parts.port)
            _, writer = await asyncio.wait_for(opening, self._connect_s)
        except (OSError, TimeoutError):
            raise Unreachable("no connection to the sandbox.", provider=NAME) from None
        writer.close()


async def _itself(inner: Any) -> Any:
    return inner


def _sdk() -> Any:
    try:
        from modal._utils.async_utils import synchronizer
    except ImportError:
        raise Rejected("its SDK is not installed.", provider=NAME,
                       hint="Install it: pip install 'accel[modal]'.") from None  # fmt: skip
    return synchronizer


def _guard(channel: Any) -> None:
    """Let only first attempts out, and without what is nobody's business; see the module's text."""
    from grpclib import events

    async def sending(event: Any) -> None:
        for header in ("x-retry-attempt", "x-throttle-retry-attempt"):
            if str(event.metadata.get(header, "0")) != "0":
                raise Refusal(0, "the connection was lost")

    async def message(event: Any) -> None:
        if type(event.message).__name__ == "AppPublishRequest":
            event.message.ClearField("commit_info")

    async def ended(event: Any) -> None:
        after = [d.retry_after_secs for d in event.status_details or () if hasattr(d, "retry_after_secs")]
        if event.status.value in (*NO_ANSWER, EXHAUSTED) or after:
            raise Refusal(event.status.value, event.status_message or "", after[0] if after else None)

    events.listen(channel, events.SendRequest, sending)
    events.listen(channel, events.SendMessage, message)
    events.listen(channel, events.RecvTrailingMetadata, ended)


def classify(error: Exception, credentials: ModalCredentials) -> ProviderError:
    """``error`` of the SDK as one of ``core.errors``."""
    from modal import exception as sdk

    words = credentials.clean(str(error))
    if isinstance(error, Refusal):
        return _refused(error.status, words, error.retry_after_s)
    if (status := getattr(error, "_grpc_status", None)) is not None:
        return _refused(status.value, words, None)
    if isinstance(error, sdk.NotFoundError):  # one that the SDK has put into its own words
        return NotFound(words, provider=NAME)
    if isinstance(error, sdk.InternalFailure):
        return Preempted(f"the input was lost ({words}).", provider=NAME)
    if isinstance(error, sdk.FunctionTimeoutError):
        return TimedOut("it ran past its function's timeout.", provider=NAME)
    if isinstance(error, sdk.OutputExpiredError):
        return NotFound("its output is no longer kept.", provider=NAME)
    if isinstance(error, sdk.RemoteError):
        memory = "memory" in words.lower()
        return (OutOfMemory if memory else JobFailed)(words or "its container failed.", provider=NAME)
    if isinstance(error, sdk.InvalidError | sdk.ExecutionError):
        return Rejected(words, provider=NAME)
    return Unreachable(f"no usable answer ({type(error).__name__}).", provider=NAME)


def _refused(status: int, words: str, retry_after_s: float | None) -> ProviderError:
    text = words or f"gRPC status {status}"
    if status == EXHAUSTED and not any(word in words.lower() for word in MONEY):
        return RateLimited(text, provider=NAME, retry_after_s=retry_after_s)
    if status in (UNSIGNED, EXHAUSTED):
        return Unauthorised(text, provider=NAME, hint="Check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, and the "
                                                      "workspace's limits.")  # fmt: skip
    if status == DENIED:
        return Denied(text, provider=NAME, hint="Check what the token may do.")
    if status == NOT_FOUND:
        return NotFound(text, provider=NAME)
    if status == 0 or status in NO_ANSWER:
        return Unreachable(text, provider=NAME, retry_after_s=retry_after_s)
    return Rejected(text, provider=NAME)
