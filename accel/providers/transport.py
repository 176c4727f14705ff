"""HTTP to a provider. Guarantee: one call is one request on the wire, bounded in time and in bytes.

No retry, no redirect, no proxy or ``.netrc`` of the environment's, no cookie. Every failure is one of
``core.errors`` and carries at most one line of the provider's own words, with every secret struck out. The
deadline is for the whole request: an answer that drips in byte by byte does not pass it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from accel.core.errors import BadOutput, ProviderError, RateLimited, Rejected, Unauthorised, Unreachable

TIMEOUT_S = 30.0
MAX_BYTES = 64 << 20  # of one answer in memory
KEEP_S = 30.0  # a connection is kept; below the 75 s after which the far end closes it
WORDS = 300  # characters of a provider's own that are shown
# Where providers put their words: RFC 9457, RunPod REST v2 (title, detail), Vast (msg), ours (message).
_WORDS_IN = ("detail", "message", "msg", "error_description", "title", "error")
_SECRET_IN = ("auth", "key", "token", "secret", "cookie")


Classify = Callable[[int, Mapping[str, Any], str], ProviderError | None]
"""(status, the failure's JSON object or {}, its words, cleaned) → an error, or None for ``failure``'s."""


class NotFound(Rejected):
    """404: the provider says that it is not there. For adapters, who know what that means."""


class Conflict(Rejected):
    """409: not in the state that it is in now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. headers: names in lower case. body: never shown by ``repr``."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    provider: str

    def json(self) -> Any:
        """The body as JSON. Raises Unreachable when it is none: that was not the provider."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Unreachable("its answer is not JSON.", provider=self.provider) from None

    def mapping(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Unreachable when it is anything else."""
        found = self.json()
        if not isinstance(found, dict):
            raise Unreachable("its answer is not a JSON object.", provider=self.provider)
        return found


class Transport:
    """Requests to one address. To be closed, or used as an async context manager.

    headers: sent with every request; the values of those that sign it (Authorization and its like) are
    secrets, as are ``secrets``. timeout_s: for one whole request.
    verify: True for public certificates, or an SSL context (``pinned``). classify: what a provider means
    by a failure, where its status alone does not say it.
    """

    def __init__(
        self, base_url: str, *, provider: str, headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S, verify: ssl.SSLContext | bool = True, secrets: Sequence[str] = (),
        max_bytes: int = MAX_BYTES, classify: Classify | None = None,
    ) -> None:  # fmt: skip
        self._classify = classify
        self.base_url, self.provider = base_url.rstrip("/"), provider
        self._headers, self._timeout_s, self._verify = dict(headers or {}), timeout_s, verify
        said = [v for k, v in self._headers.items() if any(s in k.lower() for s in _SECRET_IN)]
        parts = {part for value in said for part in (value, value.rpartition(" ")[2])}
        self._secrets = sorted(filter(None, {*parts, *secrets}), key=len, reverse=True)
        self._max_bytes = max_bytes
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the kept connections; the next request opens one again."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None,
        content: bytes | AsyncIterable[bytes] | None = None, headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None, max_bytes: int | None = None,
    ) -> Answer:  # fmt: skip
        """One request. body: sent as JSON; content: sent as it is.

        Raises Unreachable (no connection, no answer in time, 5xx, a redirect), RateLimited, Unauthorised,
        NotFound, Conflict, Rejected, and BadOutput for an answer longer than ``max_bytes``.
        """
        limit = self._max_bytes if max_bytes is None else max_bytes
        async with self._sent(method, path, params, body, content, headers, timeout_s) as answer:
            data = await self._read(answer, limit)
            return Answer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, data,
                          self.provider)  # fmt: skip

    async def json(self, method: str, path: str, **how: Any) -> Any:
        """One request, and the JSON of its answer (None for an empty one)."""
        answer = await self.request(method, path, **how)
        return answer.json() if answer.body else None

    async def download(
        self, path: str, into: BinaryIO, *, limit: int, params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None, timeout_s: float | None = None,
    ) -> int:  # fmt: skip
        """GET ``path`` into an open file; returns the bytes that came, at most ``limit``.

        Raises as ``request``, and BadOutput for an answer that is cut off or too long; what came of it
        is then in the file.
        """
        size = 0
        async with self._sent("GET", path, params, None, None, headers, timeout_s) as answer:
            async for chunk in answer.aiter_bytes(1 << 20):
                size += len(chunk)
                if size > limit:
                    raise BadOutput(f"more than the {limit:,} bytes it told.", provider=self.provider)
                into.write(chunk)
        return size

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any,
        content: bytes | AsyncIterable[bytes] | None, headers: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> AsyncIterator[httpx.Response]:  # fmt: skip
        seconds = self._timeout_s if timeout_s is None else timeout_s
        url = path if path.startswith(("http://", "https://")) else f"{self.base_url}/{path.lstrip('/')}"
        extra: dict[str, Any] = {"json": body} if body is not None else {"content": content}
        began = False
        try:
            async with asyncio.timeout(seconds):
                request = self._open().build_request(method, url, params=params, headers=headers, **extra)
                answer = await self._open().send(request, stream=True)
                try:
                    if answer.status_code >= 300:
                        raise await self._failure(answer)
                    began = True
                    yield answer
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise Unreachable(f"no answer within {seconds:g} s.", provider=self.provider) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError) as error:
            if began and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
                raise BadOutput("its answer was cut off.", provider=self.provider) from None
            raise Unreachable(f"no answer ({type(error).__name__}).", provider=self.provider) from None

    def _open(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # a pool belongs to one loop
            self._loop = loop
            self._client = httpx.AsyncClient(
                headers={**self._headers, "User-Agent": "accel", "Accept-Encoding": "identity"},
                timeout=None, verify=self._verify, trust_env=False, follow_redirects=False,
                limits=httpx.Limits(keepalive_expiry=KEEP_S),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            )  # fmt: skip
        return self._client

    async def _read(self, answer: httpx.Response, limit: int) -> bytes:
        parts, size = [], 0
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            if size > limit:
                raise BadOutput(f"an answer of more than {limit:,} bytes.", provider=self.provider)
            parts.append(chunk)
        return b"".join(parts)

    async def _failure(self, answer: httpx.Response) -> ProviderError:
        told: dict[str, Any] = {}
        with contextlib.suppress(httpx.HTTPError, BadOutput, ValueError, RecursionError):
            found = json.loads(await self._read(answer, 1 << 20))
            told = found if isinstance(found, dict) else {}
        text = self.clean(words(told))
        meant = self._classify(answer.status_code, told, text) if self._classify else None
        return meant or failure(answer.status_code, text, answer.headers, self.provider)

    def clean(self, text: str) -> str:
        """``text`` on one line of at most ``WORDS`` characters, with every secret struck out."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:WORDS]


def failure(status: int, told: str, headers: Mapping[str, str], provider: str) -> ProviderError:
    """The error for an HTTP status of 300 or more. told: the provider's words, cleaned; headers: names
    in lower case, or an httpx.Headers."""
    text = f"HTTP {status}" + (f": {told}" if told else ".")
    wait_s = parse_retry_after(headers.get("retry-after", ""))
    if status in (401, 402, 403):
        return Unauthorised(text, provider=provider)
    if status == 404:
        return NotFound(text, provider=provider)
    if status == 409:
        return Conflict(text, provider=provider)
    if status == 429:
        return RateLimited(text, provider=provider, retry_after_s=wait_s)
    if status in (408, 425) or status < 400 or (status >= 500 and status not in (501, 505)):
        return Unreachable(text, provider=provider, retry_after_s=wait_s)
    return Rejected(text, provider=provider)


def words(told: Mapping[str, Any]) -> str:
    """What a failure's JSON object says to people, from the usual fields; "" where there is none."""
    found = [told[name] for name in _WORDS_IN if isinstance(told.get(name), str)]
    if isinstance(nested := told.get("error"), dict):  # Google's: {"error": {"code", "message", "status"}}
        found += [v for k in ("message", "status") if isinstance(v := nested.get(k), str)]
    errors = told.get("errors")  # RFC 9457 as RunPod has it, and GraphQL
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        found += [v for k in ("detail", "message") if isinstance(v := errors[0].get(k), str)]
    return "; ".join(dict.fromkeys(w for w in found if w))


def parse_retry_after(value: str, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110 §10.2.3); None if neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        seconds = (then - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), 86400.0) if seconds == seconds else None


def pinned(certificate: str) -> ssl.SSLContext:
    """An SSL context that takes this one certificate (PEM), whatever name it was asked for, and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # an address changes from lease to lease; the key does not
    context.load_verify_locations(cadata=certificate)
    return context


def sha256_of(path: Path) -> str:
    """Hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

