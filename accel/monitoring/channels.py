"""Where alerts go. Guarantee: one call sends once, says what became of it, and repeats no secret.

A webhook's address may itself be a secret, as may a command's arguments: neither is printed, logged or
kept anywhere; ``Channel.shown`` names scheme and host, and the program. What came of a sending is one of
three, because "no answer" is not "not taken": a receiver that is asked again may act twice.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any

import httpx
from pydantic import SecretStr

from accel import __version__, environment
from accel.core.errors import SettingsError
from accel.core.runtime import Runtime

WEBHOOK_S = 10.0  # for connection, request and answer together
COMMAND_S = 30.0
_NONE = SecretStr("")


class Told(StrEnum):
    """What became of one sending."""

    TAKEN = "taken"    # the receiver said so: HTTP 2xx, or exit code 0
    NOT = "not taken"  # it certainly did not act, or says that it did not: may be tried again
    UNSURE = "unsure"  # it may have acted, and nobody can tell: never tried again


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a sending, and in words why; the words hold no secret."""

    told: Told
    why: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """The person's webhook, command, or both; "" where there is none.

    webhook: an http or https URL that alerts are POSTed to as JSON. Redirects are not followed and no
    proxy is used. command: a program and its arguments, as in a shell, but run without one; it gets the
    JSON on its standard input, an environment without secrets, and its output is dropped. Raises
    SettingsError, which names the setting and never its value.
    """

    webhook: SecretStr = _NONE
    command: SecretStr = _NONE

    def __post_init__(self) -> None:
        if self.webhook.get_secret_value():
            _url(self.webhook)
        if self.command.get_secret_value():
            _argv(self.command)

    @classmethod
    def of(cls, webhook: SecretStr, command: str) -> Channel:
        """As the settings hold them. Raises SettingsError."""
        return cls(webhook, SecretStr(command))

    @property
    def ways(self) -> tuple[str, ...]:
        """"webhook" and "command", as far as they are set."""
        both = (("webhook", self.webhook), ("command", self.command))
        return tuple(name for name, value in both if value.get_secret_value())

    @property
    def shown(self) -> str:
        """What may be printed of it: scheme and host, the program's name."""
        parts = []
        if self.webhook.get_secret_value():
            parts.append(f"webhook {_shown(_url(self.webhook))}")
        if self.command.get_secret_value():
            parts.append(f"command {PurePath(_argv(self.command)[0]).name}")
        return " and ".join(parts) or "no webhook and no command is set"

    async def send(self, way: str, body: bytes, key: str, runtime: Runtime) -> Sent:
        """Send ``body`` (JSON) one way, once. key: what a receiver can tell a repetition by.

        Does not raise for what the receiver does; cancelled, the sending may or may not have been taken.
        """
        if way == "webhook":
            return await _post(_url(self.webhook), body, key, runtime)
        return await runtime.offload(_run, _argv(self.command), body)


def _url(webhook: SecretStr) -> httpx.URL:
    value = webhook.get_secret_value()
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, ValueError):  # whose messages repeat parts of it
        raise SettingsError("the alert webhook is not a URL.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError("the alert webhook must be an http or https URL with a host.")
    return url


def _argv(command: SecretStr) -> list[str]:
    value = command.get_secret_value()
    try:
        argv = shlex.split(value)
    except ValueError as bad:  # "No closing quotation": says nothing of the text
        raise SettingsError(f"the alert command cannot be split into words ({bad}).") from None
    if not argv or "\0" in value:
        raise SettingsError("the alert command names no program.")
    return argv


def _shown(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")


async def _post(url: httpx.URL, body: bytes, key: str, runtime: Runtime) -> Sent:
    """One POST. The bare transport: a client would log the whole address, and could follow a redirect."""
    began = False

    async def trace(event: str, info: dict[str, Any]) -> None:
        nonlocal began  # from here on the receiver may have it
        began = began or event.endswith("send_request_headers.started")

    request = httpx.Request(
        "POST", url.copy_with(username=None, password=None, fragment=None), content=body,
        headers={"Content-Type": "application/json", "User-Agent": f"accel/{__version__}",
                 "Idempotency-Key": key},
        extensions={"trace": trace, "timeout": httpx.Timeout(WEBHOOK_S).as_dict()},
    )  # fmt: skip
    if url.username or url.password:
        request = next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
    try:
        async with asyncio.timeout(WEBHOOK_S):
            # off the loop: it reads the certificates of all authorities
            async with await runtime.offload(httpx.AsyncHTTPTransport) as transport:
                answer = await transport.handle_async_request(request)
                await answer.aclose()
    except (httpx.HTTPError, TimeoutError, OSError) as bad:
        late = isinstance(bad, (TimeoutError, httpx.TimeoutException))
        what = f"no answer within {WEBHOOK_S:.0f} s" if late else type(bad).__name__
        if began:
            return Sent(Told.UNSURE, f"{_shown(url)}: {what}, after it was sent")
        return Sent(Told.NOT, f"{_shown(url)}: {what}, before it was sent")
    status = answer.status_code
    if 200 <= status < 300:
        return Sent(Told.TAKEN)
    moved = "; redirects are not followed" if 300 <= status < 400 else ""
    return Sent(Told.NOT, f"{_shown(url)} answered HTTP {status}{moved}")


def _run(argv: Sequence[str], body: bytes) -> Sent:
    """One run of the program, in a group of its own, so that a late one is ended with all its children."""
    name = PurePath(argv[0]).name
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment.without_secrets(), start_new_session=True,
        )  # fmt: skip
    except OSError as bad:
        return Sent(Told.NOT, f"{name} cannot be started ({bad.strerror})")
    try:
        process.communicate(body, timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Sent(Told.UNSURE, f"{name} had not ended after {COMMAND_S:.0f} s and was killed")
    if process.returncode == 0:
        return Sent(Told.TAKEN)
    how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
    return Sent(Told.NOT if process.returncode > 0 else Told.UNSURE, f"{name} ended with {how}")
