"""No request holds a thread past its deadline, or memory past its limit; strangers are told nothing."""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import socket
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import TOKEN, Inside, inside

from accel.worker import door
from accel.worker.door import Body, Refused, framing

AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()
SIGNED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def there(served: Inside) -> Iterator[Inside]:
    """The same one, its limits put back after the test."""
    yield served
    served.door(head_s=door.HEAD_S, keep_s=door.KEEP_S, request_s=door.REQUEST_S)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


# --- bodies, as properties


def chunked(data: bytes, cuts: list[int], *, extension: bytes = b"") -> bytes:
    """``data`` in chunks of these sizes (the last takes the rest)."""
    parts, at = [], 0
    for size in [*cuts, len(data)]:
        part = data[at : at + size]
        at += len(part)
        if part:
            parts.append(b"%x%s\r\n%s\r\n" % (len(part), extension, part))
    return b"".join(parts) + b"0\r\n\r\n"


@given(st.binary(max_size=300), st.lists(st.integers(1, 90), max_size=8), st.sampled_from([b"", b";a=b"]))
def test_chunks_put_together_are_what_was_cut(data: bytes, cuts: list[int], extension: bytes) -> None:
    file = io.BytesIO(chunked(data, cuts, extension=extension) + b"the next request")
    body = Body(file, None)
    assert body.read(1000) == data
    assert body.done
    assert file.read() == b"the next request"  # nothing of it was taken


@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_a_body_that_is_cut_off_is_never_taken_for_whole(data: bytes, keep: int, chunks: bool) -> None:
    sent = chunked(data, []) if chunks else data
    body = Body(io.BytesIO(sent[:keep]), None if chunks else len(data))
    if keep >= len(sent):
        assert body.read(1000) == data
    else:
        with pytest.raises((ConnectionError, Refused)):
            body.read(1000)
        assert not body.done


@given(st.binary(max_size=200))
def test_any_bytes_for_chunks_end_in_an_answer_or_a_refusal(junk: bytes) -> None:
    with contextlib.suppress(Refused, ConnectionError):
        Body(io.BytesIO(junk), None).read(100)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 299), st.booleans())
def test_no_more_than_the_limit_is_held(data: bytes, limit: int, chunks: bool) -> None:
    sent = chunked(data, [7, 7, 7]) if chunks else data
    body = Body(io.BytesIO(sent), None if chunks else len(data))
    if len(data) <= limit:
        assert body.read(limit) == data
    else:
        with pytest.raises(Refused, match="at most") as refused:
            body.read(limit)
        assert refused.value.status == 413


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(
    st.lists(HEADER | st.sampled_from(["5", "0", "+5", "-1", " 5", "5, 5", "0x5", "1" * 30]), max_size=3),
    st.lists(HEADER | st.sampled_from(["chunked", "Chunked ", "gzip, chunked", "identity"]), max_size=2),
)
def test_a_length_that_two_could_read_in_two_ways_is_refused(lengths: list[str], coded: list[str]) -> None:
    headers = Message()
    for name, values in (("Content-Length", lengths), ("Transfer-Encoding", coded)):
        for value in values:
            headers[name] = value
    try:
        found = framing(headers)
    except Refused as refused:
        assert refused.status == 400
        return
    if found is None:
        assert not lengths
        assert [c.strip().lower() for c in coded] == ["chunked"]
    else:
        assert not coded
        assert [int(length) for length in lengths] in ([], [found])


# --- strangers


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("path", [
    "/health", "/metrics", "/embed", "/job", "/job/files/result.json", f"/blobs/{'0' * 64}",
    f"/indexes/{'0' * 64}", "/wheel", "/nothing",
])  # fmt: skip
def test_without_the_token_every_route_is_the_same_wall(there: Inside, method: str, path: str) -> None:
    for said in (b"", b"Bearer wrong", TOKEN.encode(), b"Basic x", b"\xff"):
        sign = b"Authorization: " + said + b"\r\n" if said else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
        answer = there.raw(head + sign + b"\r\n")
        assert status(answer) == 401
        if method != "HEAD":
            assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
                "error": "Unauthorised", "message": "the token of this lease is asked for",
            }  # fmt: skip


def test_tokens_are_compared_in_constant_time_and_at_one_length(
    there: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        seen.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr("accel.worker.boot.hmac.compare_digest", spy)
    tries = ["y", "x", TOKEN[:-1] + "!", TOKEN, TOKEN * 40]
    with httpx.Client() as client:
        answers = [client.get(f"{there.url}/health", headers={"Authorization": f"Bearer {t}"}) for t in tries]
    assert [a.status_code for a in answers] == [401, 401, 401, 200, 401]
    assert seen == [(32, 32)] * len(tries)


def test_nothing_of_a_strangers_body_is_read(there: Inside) -> None:
    """He promises a gigabyte, sends none of it, and has his answer."""
    answer = there.raw(b"PUT /blobs/" + b"0" * 64 + b" HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n")
    assert status(answer) == 401
    assert b"Connection: close" in answer


# --- slow, broken and large


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nX-A: 1\r\nX-"])
def test_who_says_his_head_too_slowly_is_put_out(there: Inside, sent: bytes) -> None:
    there.door(head_s=0.3)
    assert there.raw(sent) == b""


def test_a_byte_now_and_then_does_not_keep_the_door_open(there: Inside) -> None:
    there.door(head_s=0.5)
    with socket.create_connection(there.house.server_address[:2], 30) as sock:
        ended = False
        for byte in b"GET /health HTTP/1.1\r\nX-Slow: " + b"a" * 500:
            try:
                sock.sendall(bytes([byte]))
                sock.settimeout(0.05)
                ended = sock.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
            if ended:
                break
        assert ended


def test_a_body_that_does_not_come_ends_the_request_and_only_that(there: Inside) -> None:
    there.door(request_s=0.3)
    assert there.raw(b"POST /embed HTTP/1.1\r\n" + AUTH + b"Content-Length: 100\r\n\r\nabc") == b""
    assert httpx.get(f"{there.url}/health", headers=SIGNED).json()["state"] == "ready"


def test_slow_ones_do_not_keep_others_waiting(there: Inside) -> None:
    slow = [socket.create_connection(there.house.server_address[:2], 30) for _ in range(20)]
    try:
        for sock in slow:
            sock.sendall(b"GET /health HTT")
        assert httpx.get(f"{there.url}/health", headers=SIGNED, timeout=20).status_code == 200
    finally:
        for sock in slow:
            sock.close()


def test_beyond_its_room_nobody_is_let_in_and_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "CONNECTIONS", 2)
    with inside(tmp_path) as there:
        held = [socket.create_connection(there.house.server_address[:2], 30) for _ in range(2)]
        time.sleep(0.2)
        assert there.raw(b"GET /health HTTP/1.1\r\n" + AUTH + b"Connection: close\r\n\r\n") == b""
        for sock in held:
            sock.close()
        for _ in range(100):
            if there.raw(b"GET /health HTTP/1.1\r\n" + AUTH + b"Connection: close\r\n\r\n"):
                return
            time.sleep(0.05)
        pytest.fail("no room again")


def test_an_oversized_body_is_refused_before_it_comes(there: Inside) -> None:
    answer = there.raw(b"POST /embed HTTP/1.1\r\n" + AUTH + b"Content-Length: 99999999999\r\n\r\n")
    assert status(answer) == 413
    assert b"67,108,864" in answer


def test_an_oversized_body_in_chunks_is_refused_as_soon_as_it_is_too_long(
    there: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is still sending when he is answered, and has the answer all the same."""
    monkeypatch.setattr("accel.worker.server.MAX_CALL", 1 << 20)
    sent = chunked(bytes(2 << 20), [1 << 16] * 40)
    answer = there.raw(b"POST /embed HTTP/1.1\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n" + sent)
    assert status(answer) == 413


@pytest.mark.parametrize("head", [
    b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: +5\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
])  # fmt: skip
def test_smuggling_is_refused_and_the_connection_closed(there: Inside, head: bytes) -> None:
    hidden = b"GET /health HTTP/1.1\r\n" + AUTH + b"\r\n"
    answer = there.raw(b"POST /embed HTTP/1.1\r\n" + AUTH + head + b"\r\n" + hidden)
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


@given(st.binary(max_size=120))
def test_any_bytes_leave_it_serving(served: Inside, junk: bytes) -> None:
    served.raw(junk, end=True)
    head = b"POST /embed HTTP/1.1\r\n" + AUTH + b"Content-Length: %d\r\n\r\n" % len(junk)
    served.raw(head + junk, end=True)


def test_it_still_serves_after_all_that(served: Inside) -> None:
    assert httpx.get(f"{served.url}/health", headers=SIGNED).json()["state"] == "ready"


def test_one_connection_serves_many_requests(served: Inside) -> None:
    with httpx.Client(headers=SIGNED) as client:
        for _ in range(3):
            assert client.get(f"{served.url}/health").status_code == 200
            assert client.post(f"{served.url}/embed", content=b"no envelope").status_code == 400
            assert client.get(f"{served.url}/../etc/passwd").status_code == 404


def test_an_odd_method_is_an_error_in_json(served: Inside) -> None:
    answer = served.raw(b"BREW /health HTTP/1.1\r\n" + AUTH + b"\r\n")
    assert status(answer) == 501
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "Rejected"
