"""Kaggle's calls through its own SDK. Guarantee: one call is one request, with our credentials only.

What kagglesdk 0.1.37 would do by itself, and what is done about it:
- A token in the environment or under the home folder beats a user name and key given in code
  (kaggle_http_client.py:264-286). We hand it a finished session, so that it never looks
  (``_init_session`` returns at once when there is one: lines 173-174).
- It sets no time-out (line 104). Our transport adapter sets one on every request.
- It follows redirects (``Session.send``): ours takes none, an answer elsewhere is no answer.
- An empty or odd body parses into defaults, and the default status is "QUEUED" (kernels_api_service.py:
  2701). The raw body is kept beside the parsed one, so that a caller can tell.

Every failure is one of ``core.errors``; no message carries the key, the token, or the coded pair of both.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from accel.core.errors import (
    BadOutput,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorised,
    Unreachable,
)
from accel.providers.reach import LOOPBACK
from accel.providers.transport import parse_retry_after

if TYPE_CHECKING:
    import requests

NAME = "kaggle"
T = TypeVar("T")
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class KaggleCredentials:
    """Either a user name and key, or a token. None of them is ever shown by ``repr``."""

    username: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.token or (self.username and self.key))

    def clean(self, text: str) -> str:
        """``text`` on one line of at most 300 characters, with every secret of ours struck out."""
        pair = base64.b64encode(f"{self.username}:{self.key}".encode()).decode()
        for secret in (self.key, self.token, pair if self.key else ""):
            if secret:
                text = text.replace(secret, "***")
        return " ".join(text.split())[:300]


class NotFound(Rejected):
    """404, or Kaggle's 403 for a kernel or data set it does not know; ``denied`` tells them apart."""

    def __init__(self, message: str, *, denied: bool) -> None:
        self.denied = denied
        super().__init__(message, provider=NAME)


class KaggleClient:
    """Synchronous calls; to be run off the event loop. endpoint: loopback URL of a sandbox, or None.

    timeout_s: seconds to connect, and at most between two bytes of an answer.
    """

    def __init__(
        self, credentials: KaggleCredentials, endpoint: str | None, timeout_s: float
    ) -> None:
        self._credentials, self._endpoint, self._timeout_s = credentials, endpoint, timeout_s
        self._username = credentials.username if not credentials.token else ""

    def username(self) -> str:
        """Whose credentials these are. A token tells it in one extra request, the first time."""
        if not self._username:

            def ask(sdk: Any) -> Any:
                from kagglesdk.security.types import oauth_service

                request = oauth_service.IntrospectTokenRequest()
                request.token = self._credentials.token
                return sdk.security.oauth_client.introspect_token(request)

            answer, _ = self.call(ask)
            if not answer.active or not answer.username:
                raise Unauthorised("Kaggle does not know this token.", provider=NAME,
                                   hint="Make a new one under Settings, API.")  # fmt: skip
            self._username = str(answer.username)
        return self._username

    def call(self, ask: Callable[[Any], T]) -> tuple[T, Any]:
        """``ask(kagglesdk.KaggleClient)`` and the JSON it was parsed from; errors as ``core.errors``."""
        try:
            from kagglesdk import KaggleClient as Sdk
            from kagglesdk.kaggle_env import KaggleEnv
        except ImportError:
            raise Rejected("its SDK is not installed.", provider=NAME,
                           hint="Install it: pip install 'accel[kaggle]'.") from None  # fmt: skip

        raw: list[Any] = []
        sdk = Sdk(
            env=KaggleEnv.LOCAL if self._endpoint else KaggleEnv.PROD,
            username=self._credentials.username, password=self._credentials.key,
            api_token=self._credentials.token or None, user_agent="accel",
            response_processor=lambda answer: raw.append(answer.json()),
        )  # fmt: skip
        http = sdk.http_client()
        with self._session() as session:
            self._sign(session)
            session.headers["Content-Type"] = "application/json"  # kaggle_http_client.py:177-179
            http._session = session
            if self._endpoint:  # the only way to another host: kaggle_env.py:24-31 has a fixed list
                http._endpoint = self._endpoint
            try:
                parsed = ask(sdk)
            except Exception as error:  # requests' classes, and whatever the SDK's parser trips over
                self._raise(error)
        if not raw or not isinstance(raw[0], dict):
            raise Unreachable("Kaggle's answer is not a JSON object.", provider=NAME)
        return parsed, raw[0]

    def download(self, url: str, into: Path, limit: int) -> int:
        """GET ``url`` without credentials into ``into``; returns its size in bytes.

        Raises BadOutput if it is cut off, missing, longer than ``limit``, or not where Kaggle's own
        files are; Unreachable if no connection comes about. Leaves no partial file.
        """
        import requests
        import urllib3

        self._address(url, "an output's address is not one of Kaggle's.")
        size, expected = 0, -1
        try:
            with self._session() as session:
                session.max_redirects = 0 if self._endpoint else 3  # signed storage addresses
                answer = session.get(
                    url, stream=True, timeout=self._timeout_s, headers={"Accept-Encoding": "identity"}
                )
                with answer, into.open("wb") as file:
                    if answer.status_code >= 500 or answer.status_code == 429:
                        answer.raise_for_status()
                    if answer.status_code != 200:
                        raise BadOutput(f"{into.name}: Kaggle lists it, but answers "
                                        f"{answer.status_code} for it.", provider=NAME)  # fmt: skip
                    if "Content-Encoding" not in answer.headers:
                        expected = int(answer.headers.get("Content-Length", -1))
                    for chunk in answer.iter_content(CHUNK):
                        size += len(chunk)
                        if size > limit:
                            raise BadOutput(f"{into.name} is larger than the {limit:,} bytes that "
                                            "may come back.", provider=NAME)  # fmt: skip
                        file.write(chunk)
            if expected not in (-1, size):
                raise BadOutput(f"{into.name}: {size} of {expected} bytes came.", provider=NAME)
        except ProviderError:
            into.unlink(missing_ok=True)
            raise
        except (requests.exceptions.ChunkedEncodingError, urllib3.exceptions.HTTPError):
            into.unlink(missing_ok=True)
            raise BadOutput(f"{into.name}: the download was cut off after {size} bytes.",
                            provider=NAME) from None  # fmt: skip
        except (requests.RequestException, ValueError) as error:
            into.unlink(missing_ok=True)
            self._raise(error)
        return size

    def put(self, url: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
        """PUT to a signed address, without credentials: the status, and the answer's Range ("" without one).

        body: bytes, or an object with ``read`` and ``len``. Raises Unreachable if no answer comes.
        """
        self._address(url, "an upload's address is not one of Kaggle's.")
        try:
            with self._session() as session:
                answer = session.put(url, data=body, headers=headers, timeout=self._timeout_s)
                return answer.status_code, answer.headers.get("Range", "")
        except Exception as error:  # requests' classes; the address is a secret, and in no message of ours
            self._raise(error)

    def _address(self, url: str, told: str) -> None:
        """Loopback in the sandbox, TLS elsewhere. Raises BadOutput for another address."""
        parts = urlsplit(url)
        if self._endpoint:
            wanted = parts.scheme == "http" and parts.hostname in LOOPBACK
        else:
            wanted = parts.scheme == "https"
        if not wanted:
            raise BadOutput(told, provider=NAME)

    def _session(self) -> requests.Session:
        """A session of its own for one call: no state is shared between threads or left behind."""
        import requests
        from requests.adapters import HTTPAdapter

        timeout_s = self._timeout_s

        class Bounded(HTTPAdapter):
            def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
                options["timeout"] = options.get("timeout") or timeout_s
                return super().send(request, **options)

        session = requests.Session()
        session.trust_env = self._endpoint is None  # a proxy has no business with loopback
        session.auth = _no_auth  # else requests would look into ~/.netrc
        session.max_redirects = 0
        for scheme in ("https://", "http://"):
            session.mount(scheme, Bounded(max_retries=0))
        return session

    def _sign(self, session: requests.Session) -> None:
        """Bearer token or Basic pair, as kaggle_http_client.py:255-286 does it."""
        if self._credentials.token:
            header = f"Bearer {self._credentials.token}"
            session.auth = lambda request: _with_header(request, header)
        else:
            session.auth = (self._credentials.username, self._credentials.key)

    def _raise(self, error: Exception) -> NoReturn:
        """``error`` as one of ``core.errors``."""
        import requests

        if isinstance(error, ProviderError):
            raise error
        answer = error.response if isinstance(error, requests.RequestException) else None
        if isinstance(error, requests.TooManyRedirects):
            raise Unreachable("Kaggle sent us to another address.", provider=NAME) from None
        if answer is None:
            unread = isinstance(error, requests.exceptions.InvalidJSONError)
            sent = isinstance(error, requests.RequestException) and not unread
            what = "no answer from Kaggle" if sent else "Kaggle's answer cannot be read"
            raise Unreachable(f"{what} ({type(error).__name__}).", provider=NAME) from None
        body: Any = None
        with contextlib.suppress(ValueError):
            body = answer.json()
        told = body if isinstance(body, dict) else {}
        code = told.get("code")  # may differ from the HTTP status: kaggle_http_client.py:128-132
        status = code if isinstance(code, int) and code >= 400 else answer.status_code
        words = self._credentials.clean(str(told.get("message") or ""))
        raise _classify(status, words, answer.headers.get("Retry-After", "")) from None


def _classify(status: int, words: str, retry_after: str) -> ProviderError:
    text = f"HTTP {status}" + (f": {words}" if words else ".")
    if status == 404:
        return NotFound(text, denied=False)
    if status == 403 and re.search(r"'(kernels|datasets)\.get'", words):
        # Kaggle's answer for what does not exist, or not yet: see ``providers.kaggle``.
        return NotFound(text, denied=True)
    if status in (401, 402, 403):
        hint = "Check KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY."
        return Unauthorised(text, provider=NAME, hint=hint)
    if status == 429:
        return RateLimited(text, provider=NAME, retry_after_s=parse_retry_after(retry_after))
    if status >= 500 and status != 501:
        return Unreachable(text, provider=NAME, retry_after_s=parse_retry_after(retry_after))
    return Rejected(text, provider=NAME)


def _no_auth(request: Any) -> Any:
    return request


def _with_header(request: Any, header: str) -> Any:
    request.headers["Authorization"] = header
    return request


