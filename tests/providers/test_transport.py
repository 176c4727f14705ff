"""One call is one request, bounded in time and in bytes; every failure is typed, and no secret is in it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import looped

from accel.core.errors import (
    BadOutput,
    NoCapacity,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorised,
    Unreachable,
)
from accel.providers.transport import Conflict, NotFound, Transport, failure, words

KEY = "rpa_marked-secret-key-0123456789"


class Wire:
    """A server that answers each connection with the next of these bytes, and keeps what came."""

    def __init__(self, *answers: bytes | Callable[[socket.socket], None]) -> None:
        self.answers, self.requests = list(answers), list[bytes]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                part = sock.recv(1 << 16)
                if not part:
                    return
                data += part
            self.requests.append(data)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if callable(answer):
                answer(sock)
            else:
                sock.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def wire(*answers: bytes | Callable[[socket.socket], None]) -> Iterator[Wire]:
    made = Wire(*answers)
    try:
        yield made
    finally:
        made.close()


def http(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    more = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    return head.encode() + body


def ask(there: Wire, how: Callable[[Transport], Any] | None = None, **said: Any) -> Any:
    """One request with a transport of its own; its answer or its error."""

    async def main() -> Any:
        signed = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
        async with Transport(
            there.url, provider="cloud", headers=signed, **{"timeout_s": 20, **said}
        ) as made:
            return await (how(made) if how else made.request("GET", "/v2/pods"))

    try:
        return asyncio.run(main())
    except ProviderError as error:
        return error


@pytest.mark.parametrize(("status", "made"), [
    (301, Unreachable), (302, Unreachable), (400, Rejected), (401, Unauthorised),
    (402, Unauthorised), (403, Unauthorised), (404, NotFound), (405, Rejected), (408, Unreachable),
    (409, Conflict), (410, Rejected), (422, Rejected), (429, RateLimited), (500, Unreachable),
    (501, Rejected), (502, Unreachable), (503, Unreachable), (504, Unreachable), (520, Unreachable),
    (524, Unreachable),
])  # fmt: skip
def test_each_status_has_its_class(status: int, made: type[ProviderError]) -> None:
    body = b'{"title": "No", "detail": "because ' + KEY.encode() + b'\\nof it", "status": 4}'
    with wire(http(status, body, Location="/elsewhere")) as there:
        error = ask(there)
        assert type(error) is made
        assert error.provider == "cloud"
        assert str(error).startswith(f"cloud: HTTP {status}: because *** of it; No")
        assert len(there.requests) == 1  # no retry, no redirect


@given(
    st.integers(300, 999), st.text(max_size=50), st.dictionaries(st.just("retry-after"), st.text(max_size=9))
)
def test_any_status_is_an_error_of_one_line(status: int, told: str, headers: dict[str, str]) -> None:
    error = failure(status, told, headers, "cloud")
    assert isinstance(error, ProviderError)
    assert len(str(error).splitlines()) == 1
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= 86400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["detail", "message", "msg", "title", "error", "errors", "x"]), JSON))
def test_any_json_gives_words_or_none(told: dict[str, Any]) -> None:
    assert isinstance(words(told), str)


def test_words_come_from_where_providers_put_them() -> None:
    assert (
        words({"success": False, "error": "no_such_ask", "msg": "ask 5 is gone"})
        == "ask 5 is gone; no_such_ask"
    )
    assert words(
        {"title": "Invalid", "status": 422, "errors": [{"detail": "gpu.count must be above 0"}]}
    ) == ("Invalid; gpu.count must be above 0")
    assert words({"errors": [{"message": "Something went wrong"}], "data": None}) == "Something went wrong"


@pytest.mark.parametrize(("value", "least", "most"), [
    ("7", 7, 7), ("0", 0, 0), (format_datetime(datetime(2100, 1, 1, tzinfo=UTC), usegmt=True), 86400, 86400),
])  # fmt: skip
@pytest.mark.parametrize("status", [429, 503])
def test_what_a_provider_asks_us_to_wait_is_told(status: int, value: str, least: float, most: float) -> None:
    with wire(http(status, Retry_After=value)) as there:
        assert least <= ask(there).retry_after_s <= most


@pytest.mark.parametrize("body", [b"", b"<html>gateway</html>", b"[1, 2", b"\xff\xfe", b"[" * 5000])
def test_what_is_not_json_was_not_the_provider(body: bytes) -> None:
    with wire(http(200, body)) as there:
        assert isinstance(ask(there, lambda t: _mapping(t)), Unreachable)


async def _mapping(transport: Transport) -> Any:
    return (await transport.request("GET", "/x")).mapping()


def test_an_answer_of_another_shape_is_no_object() -> None:
    with wire(http(200, b"[1]")) as there:
        assert isinstance(ask(there, lambda t: _mapping(t)), Unreachable)
        assert ask(there, lambda t: t.json("GET", "/x")) == [1]
    with wire(http(204, b"")) as there:
        assert ask(there, lambda t: t.json("DELETE", "/x")) is None


def _drip(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    stop = threading.Event()
    while not stop.wait(0.02):
        sock.sendall(b"x")


def _hang(sock: socket.socket) -> None:
    sock.recv(1)


@pytest.mark.parametrize("slow", [_drip, _hang])
def test_the_deadline_is_for_the_whole_answer(slow: Callable[[socket.socket], None]) -> None:
    with wire(slow) as there:
        error = ask(there, timeout_s=0.3)
        assert isinstance(error, Unreachable)
        assert "0.3 s" in str(error)


def test_nobody_there_or_nothing_said_is_unreachable() -> None:
    with wire(b"") as there:
        assert isinstance(ask(there), Unreachable)
    there.close()
    assert isinstance(ask(there), Unreachable)
    with wire(b"SSH-2.0-OpenSSH\r\n") as there:
        assert isinstance(ask(there), Unreachable)


def test_an_answer_that_is_cut_off_or_too_long_is_bad_output() -> None:
    whole = http(200, b"x" * 1000)
    with wire(whole[:-10]) as there:
        assert isinstance(ask(there), BadOutput)
    with wire(whole) as there:
        assert isinstance(ask(there, max_bytes=999), BadOutput)
        assert ask(there, max_bytes=1000).body == b"x" * 1000
        assert KEY not in repr(ask(there))


def test_a_download_is_written_up_to_its_limit() -> None:
    with wire(http(200, b"y" * 3_000_000)) as there:
        into = io.BytesIO()
        assert ask(there, lambda t: t.download("/f", into, limit=3_000_000)) == 3_000_000
        assert into.getvalue() == b"y" * 3_000_000
        assert isinstance(ask(there, lambda t: t.download("/f", io.BytesIO(), limit=2_999_999)), BadOutput)
    with wire(http(404)) as there:
        assert isinstance(ask(there, lambda t: t.download("/f", io.BytesIO(), limit=9)), NotFound)


def test_an_adapter_can_say_what_a_failure_means() -> None:
    def classify(status: int, told: Any, said: str) -> ProviderError | None:
        if told.get("error") == "no_such_ask":
            return NoCapacity(said, provider="cloud")
        return None

    body = b'{"error": "no_such_ask", "msg": "gone, ' + KEY.encode() + b'"}'
    with wire(http(404, body)) as there:
        error = ask(there, classify=classify)
        assert isinstance(error, NoCapacity)
        assert KEY not in str(error)
    with wire(http(404, b"{}")) as there:
        assert isinstance(ask(there, classify=classify), NotFound)


def test_it_sends_what_it_was_given_and_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with wire(http(200, b"{}", Set_Cookie="a=b; Path=/")) as there:

        async def twice(transport: Transport) -> Any:
            await transport.request("POST", "/v2/pods", params={"a b": "c&d"}, body={"name": "x"})
            return await transport.request("PUT", "/v2/raw", content=b"raw", headers={"X-One": "1"})

        assert ask(there, twice).status == 200
        one, two = there.requests
        assert one.startswith(b"POST /v2/pods?a+b=c%26d HTTP/1.1\r\n") or b"a%20b=c%26d" in one
        assert f"authorization: bearer {KEY}".encode() in one.lower()
        assert two.startswith(b"PUT /v2/raw HTTP/1.1\r\n")
        assert b"x-one: 1" in two.lower()
        assert b"cookie" not in two.lower()


def test_secrets_of_any_kind_are_struck_out_and_plain_headers_are_not() -> None:
    made = Transport("http://x", provider="p", secrets=["other-secret"],
                     headers={"X-Api-Key": "abc-key", "Accept": "application/json"})  # fmt: skip
    assert (
        made.clean("abc-key and other-secret want application/json\n now")
        == "*** and *** want application/json now"
    )
    assert len(made.clean("x" * 9999)) == 300
    assert "abc-key" not in repr(made)


@looped
async def test_it_can_be_used_again_after_it_was_closed() -> None:
    with wire(http(200, b"1")) as there:
        made = Transport(there.url, provider="p")
        for _ in range(2):
            assert await made.json("GET", "/") == 1
            await made.aclose()
        await made.aclose()


def test_it_can_be_used_on_one_loop_after_another() -> None:
    with wire(http(200, b"1")) as there:
        made = Transport(there.url, provider="p")

        async def main() -> None:
            assert await made.json("GET", "/") == 1

        asyncio.run(main())
        asyncio.run(main())

        async def end() -> None:
            await made.aclose()

        asyncio.run(end())


def test_a_cancelled_request_is_cancelled_and_not_an_error() -> None:
    hanging = threading.Event()

    def hang(sock: socket.socket) -> None:
        hanging.set()
        sock.recv(1)

    with wire(hang) as there:

        async def main() -> None:
            async with Transport(there.url, provider="p") as made:
                task = asyncio.create_task(made.request("GET", "/"))
                await asyncio.to_thread(hanging.wait, 30)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(main())


def test_public_certificates_are_asked_for_by_default() -> None:
    with wire(lambda sock: None) as there:
        secure = there.url.replace("http://", "https://")

        async def main() -> None:
            async with Transport(secure, provider="p", timeout_s=5) as made:
                await made.request("GET", "/")

        with pytest.raises(Unreachable):
            asyncio.run(main())
        assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
