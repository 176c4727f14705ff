"""One call is one request to a far end, and nothing that comes back is trusted; with real machines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from machines import TOKEN, Box, Inside, inside, looped, machine, wheel

from accel import keys
from accel.core.errors import (
    BadOutput,
    IndexError_,
    JobFailed,
    ModelError,
    NoCapacity,
    OutOfMemory,
    Preempted,
    ProviderError,
    QueryError,
    RateLimited,
    Rejected,
    Unauthorised,
    Unreachable,
)
from accel.core.passage import Passage
from accel.core.task import Spec, Stage
from accel.index.store import META, HybridIndex
from accel.providers.base import JobState, Progress
from accel.providers.far_end import FarEnd
from accel.providers.transport import pinned, sha256_of
from accel.stages.embed import DeviceFull, default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import read_result
from accel.worker.bundle import Bundle
from accel.worker.door import Refused

TEXTS = ["a first text", "", "the third"]


def far_end(box: Box, token: str = TOKEN) -> FarEnd:
    return FarEnd(box.url, token, provider="rented")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A machine that is up, for tests that leave it as they found it."""
    with machine(tmp_path_factory.mktemp("machine")) as box:

        async def wait() -> None:
            async with far_end(box) as far:
                await far.come_up(wheel, 60, 0.1)

        asyncio.run(wait())
        yield box


async def until(far: FarEnd, state: str) -> None:
    """Wait until its health says ``state``."""
    while True:
        with contextlib.suppress(Unreachable):
            if (await far.health()).state == state:
                return
        await asyncio.sleep(0.05)


async def ended(far: FarEnd) -> Progress:
    """How its job ended."""
    while True:
        progress = await far.poll_job()
        if progress.state.terminal:
            return progress
        await asyncio.sleep(0.1)


def request() -> Envelope:
    return Envelope("t", default_spec().fields(), pack_texts(TEXTS))


@looped
async def test_a_machine_comes_up_with_its_wheel(tmp_path: Path) -> None:
    with machine(tmp_path / "m") as box:
        async with far_end(box) as far:
            assert not await far.ready()
            health = await far.come_up(wheel, 60, 0.1)
            assert (health.state, health.device, health.job) == ("ready", "cpu", Progress(JobState.ABSENT))
            assert health.wheel == hashlib.sha256(wheel()).hexdigest()
            await far.deliver(wheel())  # once more: nothing happens
            assert await far.ready()


@looped
async def test_a_machine_killed_while_it_is_sent_something_is_sent_it_again(tmp_path: Path) -> None:
    """First in the middle of its wheel, then in the middle of a blob; each time another takes its port."""
    path = tmp_path / "blob"
    path.write_bytes(bytes(4_000_000))
    digest = sha256_of(path)

    async def half(box: Box, put: str, data: bytes) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", box.port)
        head = f"PUT {put} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data[: len(data) // 2])
        await writer.drain()
        box.process.kill()
        box.process.wait()
        writer.close()

    with machine(tmp_path / "a") as box:
        far = far_end(box)
        await until(far, "waiting")
        await half(box, "/wheel", wheel())
    for folder in ("b", "c"):
        with machine(tmp_path / folder, port=box.port) as box:
            await far.come_up(wheel, 60, 0.1)
            if folder == "b":
                await half(box, f"/blobs/{digest}?offset=0&size=4000000", path.read_bytes())
                with pytest.raises(Unreachable):
                    await far.ensure(digest, path)
            else:
                assert await far.ensure(digest, path) == 4_000_000
    await far.aclose()


@looped
async def test_a_job_runs_there_and_its_files_come_home(up: Box, tmp_path: Path) -> None:
    """One that fails at once; ``test_allowed`` runs one to its good end."""
    spec = default_spec()
    job = {"schema": 1, "task_id": "t", "kind": "paint", "spec": spec.fields(), "lifetime_s": 200}
    Bundle(job, wheel(), request().to_bytes()).write(tmp_path / "b")
    Bundle(job, b"another wheel", request().to_bytes()).write(tmp_path / "c")
    async with far_end(up) as far:
        with pytest.raises(Rejected, match="another wheel"):
            await far.start_job(tmp_path / "c")
        with pytest.raises(Rejected, match="not a whole job bundle"):
            await far.start_job(tmp_path / "none")
        await far.start_job(tmp_path / "b")
        await far.start_job(tmp_path / "b")  # safe to repeat
        assert (await ended(far)).state is JobState.DONE
        fetched = await far.fetch_job(tmp_path / "home")
        assert set(fetched.files) == {"result.json"}
        assert "no job kind" in fetched.log
        with pytest.raises(JobFailed, match="no job kind"):
            read_result(tmp_path / "home", task_id="t", spec=spec.fields(), provider="rented")
        assert await far.stop_job()


@looped
async def test_without_the_token_nothing_is_told(up: Box) -> None:
    async with far_end(up, "another-token-0123456789") as far:
        for ask in (far.health(), far.call(request()), far.poll_job(), far.deliver(wheel())):
            with pytest.raises(Unauthorised, match="token of this lease"):
                await ask


@looped
async def test_nobody_there_is_not_ready_and_in_time_no_capacity(tmp_path: Path) -> None:
    with machine(tmp_path / "m") as box:
        pass
    async with far_end(box) as far:
        assert not await far.ready()
        with pytest.raises(Unreachable):
            await far.health()
        with pytest.raises(NoCapacity, match="nobody answered"):
            await far.come_up(wheel, 0.2, 0.1)


@looped
async def test_another_wheel_is_not_taken(tmp_path: Path) -> None:
    with machine(tmp_path / "m") as box:
        async with far_end(box) as far:
            await until(far, "waiting")
            with pytest.raises(Rejected, match="not the wheel"):
                await far.deliver(b"PK another")
            assert (await far.health()).state == "waiting"
            await far.come_up(wheel, 60, 0.1)


# --- what travels once


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(tmp_path_factory.mktemp("inside")) as made:
        yield made


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, seen: list[tuple[str, str, int]]) -> Iterator[None]:
    """Notes method, path and body bytes of every request as the transport sends it."""
    real = httpx.AsyncHTTPTransport.handle_async_request

    async def noted(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, len(await request.aread())))
        return await real(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", noted)
        yield


def make_index(folder: Path, n: int = 50) -> HybridIndex:
    passages = [Passage(f"p{i}", f"text {i} {folder.name}", "test", "test") for i in range(n)]
    vectors = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    return HybridIndex.build(folder, passages, vectors, Spec(Stage.EMBED, model="m", dimension=8))


def search(index: HybridIndex) -> Envelope:
    tensors = pack_texts(["text 7"]) | {"vectors": np.asarray(index.vectors[7:8])}
    return Envelope("s", Spec(Stage.SEARCH).fields(), tensors, {"index": index.id, "k": 5})


def test_an_index_travels_once_a_lease(
    there: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call sends it, in pieces; the second sends its request alone; a second client asks once."""
    index = make_index(tmp_path / "index")
    size = sum(p.stat().st_size for p in index.folder.iterdir())
    seen: list[tuple[str, str, int]] = []

    async def main() -> None:
        async with FarEnd(there.url, TOKEN, provider="rented", piece=1000) as far:
            assert await far.ensure(index.id, index.folder) == size
            puts = [b for m, p, b in seen if m == "PUT" and p.startswith("/blobs/")]
            assert max(puts) == 1000
            assert sum(b for m, _, b in seen) == size
            first = await far.call(search(index))
            seen.clear()
            assert await far.ensure(index.id, index.folder) == 0
            again = await far.call(search(index))
            assert seen == [("POST", "/search", len(search(index).to_bytes()))]
            assert np.array_equal(first.tensors["ids"], again.tensors["ids"])
        seen.clear()
        async with FarEnd(there.url, TOKEN, provider="rented") as far:
            assert await far.ensure(index.id, index.folder) == 0
            assert seen == [("GET", f"/indexes/{index.id}", 0)]
            # another index with the same passages' words: only what differs travels
            meta = json.loads((index.folder / META).read_text())
            other = HybridIndex.build(
                tmp_path / "other", index.passages(range(len(index))), -index.vectors, index.spec
            )
            sent = await far.ensure(other.id, other.folder)
            assert sent < size - meta["files"]["words"]["bytes"]

    with counted(monkeypatch, seen):
        asyncio.run(main())


@looped
async def test_two_at_once_send_it_once(there: Inside, tmp_path: Path) -> None:
    index = make_index(tmp_path / "both", 3000)
    one = FarEnd(there.url, TOKEN, provider="rented", piece=5000)
    two = FarEnd(there.url, TOKEN, provider="rented", piece=7000)
    async with one, two:
        sent = await asyncio.gather(
            *(far.ensure(index.id, index.folder) for far in (one, one, two, two, one))
        )
        assert index.id in (await one.health()).resident
        answer = await two.call(search(index))
        assert answer.tensors["ids"][0, 0] == 7
        size = sum(p.stat().st_size for p in index.folder.iterdir())
        assert size <= sum(sent) <= 2 * size


@looped
async def test_an_upload_goes_on_where_it_broke_off(there: Inside, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(np.random.default_rng(1).bytes(100_000))
    digest = sha256_of(path)
    there.far.blobs.put(digest, 0, 100_000, [path.read_bytes()[:60_000]])
    async with FarEnd(there.url, TOKEN, provider="rented", piece=30_000) as far:
        assert await far.ensure(digest, path) == 40_000


@looped
async def test_a_machine_that_was_started_anew_is_sent_it_again(there: Inside, tmp_path: Path) -> None:
    index = make_index(tmp_path / "again")
    async with FarEnd(there.url, TOKEN, provider="rented") as far:
        await far.ensure(index.id, index.folder)
        del there.far.worker._indexes[index.id]  # as after a restart
        with pytest.raises(Unreachable, match="not here"):
            await far.call(search(index))
        await far.ensure(index.id, index.folder)
        assert (await far.call(search(index))).tensors["ids"].shape == (1, 5)


@looped
async def test_what_the_far_end_means_is_told_by_its_class(
    there: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FarEnd(there.url, TOKEN, provider="rented") as far:
        for raised, made in (
            (torch.OutOfMemoryError("x"), OutOfMemory), (DeviceFull("x"), OutOfMemory),
            (ModelError("no"), JobFailed), (QueryError("bad"), Rejected),
            (RuntimeError("secret"), JobFailed), (IndexError_("gone"), Unreachable),
            (Refused(429, "RateLimited", "full", Retry_After="3"), RateLimited),
            (Refused(504, "Unreachable", "slow"), Unreachable),
        ):  # fmt: skip

            def fail(*_: object, error: Exception = raised) -> None:
                raise error

            monkeypatch.setattr(there.far.serving, "answer", fail)
            with pytest.raises(made) as caught:
                await far.call(request())
            assert "secret" not in str(caught.value)
            assert type(caught.value) is made
        monkeypatch.undo()
        there.far.leaving = True
        try:
            with pytest.raises(Preempted):
                await far.call(request())
            with pytest.raises(Preempted):
                await far.ready()
        finally:
            there.far.leaving = False


# --- what comes back is not trusted


@pytest.mark.parametrize("name", [
    "../out", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\x00b", "C:x", "x" * 101,
    "result.json\n",
])  # fmt: skip
def test_a_file_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    error = hostile({"/job/files": json.dumps({"files": {name: entry}}).encode()}, tmp_path / "home" / "in")
    assert isinstance(error, BadOutput)
    assert not list((tmp_path / "home" / "in").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


GOOD = {"bytes": 4, "sha256": hashlib.sha256(b"good").hexdigest()}


@pytest.mark.parametrize(("listing", "data"), [
    ({"r": GOOD}, b"evil"), ({"r": GOOD}, b"goo"), ({"r": GOOD}, b"good and more"), ({"r": GOOD}, b""),
    ({"r": GOOD | {"bytes": -1}}, b""), ({"r": GOOD | {"bytes": 10**12}}, b"good"),
    ({"r": GOOD | {"bytes": "x"}}, b"good"),
    ({"r": 3}, b""), ([], b""), ("x", b""), ({f"f{i}": GOOD for i in range(65)}, b"good"),
])  # fmt: skip
def test_a_file_that_is_not_what_was_told_is_bad_output_and_does_not_stay(
    tmp_path: Path, listing: Any, data: bytes
) -> None:
    routes = {"/job/files": json.dumps({"files": listing}).encode(), "/job/files/r": data}
    assert isinstance(hostile(routes, tmp_path / "in"), BadOutput)
    assert not (tmp_path / "in").exists() or not [p for p in (tmp_path / "in").iterdir() if p.name == "r"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_job_without_files_has_failed_and_one_that_vanishes_is_bad_output(tmp_path: Path) -> None:
    assert isinstance(hostile({"/job/files": b'{"files": {}}'}, tmp_path / "in"), JobFailed)
    listed = {"/job/files": json.dumps({"files": {"r": GOOD}}).encode()}
    assert isinstance(hostile(listed, tmp_path / "in"), BadOutput)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"state": "dancing"}', b'{"state": 3}', b'{"state": null}']
)
def test_an_odd_word_about_a_job_is_no_word(tmp_path: Path, body: bytes) -> None:
    assert isinstance(hostile({"/job": body}, tmp_path, "poll_job"), Unreachable)


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{}", b"x" * 100, b'{"state": "ready", "idle_s": "x"}', b'{"state": "ready", "job": 3}',
    b'{"state": "ready", "resident": 4}',
])  # fmt: skip
def test_odd_health_is_no_health(tmp_path: Path, body: bytes) -> None:
    assert isinstance(hostile({"/health": body}, tmp_path, "health"), Unreachable)


def test_an_envelope_that_was_altered_is_bad_output(tmp_path: Path) -> None:
    good = bytearray(request().to_bytes())
    good[-1] ^= 1
    assert isinstance(hostile({"/embed": bytes(good)}, tmp_path, "call"), BadOutput)


@pytest.mark.parametrize(
    "told", [{"have": 10**9}, {"have": -1}, {"have": "x"}, {}, {"have": 0, "whole": False}]
)
def test_a_far_end_that_keeps_nothing_is_given_up(tmp_path: Path, told: dict[str, Any]) -> None:
    (tmp_path / "blob").write_bytes(b"some bytes")
    digest = sha256_of(tmp_path / "blob")
    routes = {f"/blobs/{digest}": json.dumps(told).encode()}
    assert isinstance(hostile(routes, tmp_path, "ensure"), BadOutput)


def hostile(routes: dict[str, bytes], folder: Path, what: str = "fetch_job") -> Any:
    """What one call of the client makes of a far end that answers with just these bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def one(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = routes.get(self.path.partition("?")[0])
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        do_GET = do_PUT = do_POST = one

        def log_message(self, *args: object) -> None:
            pass

    async def main(url: str) -> Any:
        async with FarEnd(url, TOKEN, provider="rented") as far:
            calls: dict[str, Any] = {
                "fetch_job": lambda: far.fetch_job(folder), "poll_job": far.poll_job, "health": far.health,
                "call": lambda: far.call(request()),
                "ensure": lambda: far.ensure(next(iter(routes)).removeprefix("/blobs/"), folder / "blob"),
            }  # fmt: skip
            return await calls[what]()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        try:
            return asyncio.run(main(f"http://127.0.0.1:{served.server_address[1]}"))
        except ProviderError as error:
            return error
        finally:
            served.shutdown()


# --- TLS


@looped
async def test_a_leases_own_certificate_is_taken_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    mine, other = (keys.lease_certificate(tmp_path / "home", name) for name in ("accel-a", "accel-b"))
    with machine(tmp_path / "m", certificate=mine) as box:
        # who connects and says nothing keeps nobody else from being served
        silent = [socket.create_connection(("127.0.0.1", box.port)) for _ in range(3) if _opened(box)]
        async with FarEnd(box.url, TOKEN, provider="rented", verify=pinned(mine[0])) as far:
            await far.come_up(wheel, 60, 0.1)
            assert (await far.health()).state == "ready"
            await far.ensure(*_blob(tmp_path))
        for verify in (pinned(other[0]), True):
            async with FarEnd(box.url, TOKEN, provider="rented", verify=verify) as far:
                with pytest.raises(Unreachable):
                    await far.health()
        for sock in silent:
            sock.close()
        assert "PRIVATE KEY" not in box.log


def _opened(box: Box) -> bool:
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", box.port)):
            return True
        time.sleep(0.1)
    return False


def _blob(folder: Path) -> tuple[str, Path]:
    path = folder / "blob"
    path.write_bytes(bytes(300_000))
    return sha256_of(path), path
