"""Whatever happens, a rented machine ends itself in time; started as a container would start it."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import http.server
import io
import json
import socket
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from machines import TOKEN, Box, machine, wheel

from accel.worker import start

SIGNED = {"Authorization": f"Bearer {TOKEN}"}
SECRET = "key-of-the-provider-42"


@dataclass
class Provider:
    """Takes requests to end a machine; answers with these statuses, the last one for ever."""

    url: str
    statuses: list[int]
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextlib.contextmanager
def provider(*statuses: int) -> Iterator[Provider]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            made.asked.append((self.command, self.path, dict(self.headers), body))
            self.send_response(made.statuses.pop(0) if len(made.statuses) > 1 else made.statuses[0])
            self.end_headers()

        do_DELETE = do_POST = do_PUT = one

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        made = Provider(f"http://127.0.0.1:{served.server_address[1]}", list(statuses))
        threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        served.shutdown()


def ask(there: Provider) -> dict[str, object]:
    return {"url": f"{there.url}/pods/{{POD_ID}}", "method": "DELETE", "pause_s": 0.01,
            "headers": {"Authorization": "Bearer {POD_KEY}"}}  # fmt: skip


EXTRA = {"POD_ID": "pod7", "POD_KEY": SECRET}


def health(box: Box) -> dict[str, Any]:
    return httpx.get(f"{box.url}/health", headers=SIGNED, timeout=30).json()


def until(box: Box, *states: str) -> dict[str, Any]:
    """Its health, once its state is one of these."""
    ends = time.monotonic() + 90
    while time.monotonic() < ends:
        with contextlib.suppress(httpx.TransportError):
            told = health(box)
            if told["state"] in states:
                return told
        time.sleep(0.05)
    raise AssertionError(f"never {states}: {box.log}")


def test_the_command_fits_vasts_onstart_and_holds_no_secret() -> None:
    source = start.source()
    assert len(source) <= start.MAX_COMMAND
    assert not set(source) & set("'\\$`\n")  # safe in single quotes, in sh and in JSON
    assert len(start.shell_line()) <= 4048
    packed = source.split('"')[1]
    plain = zlib.decompress(base64.b64decode(packed)).decode()
    ast.parse(plain, feature_version=(3, 10))
    nodes = list(ast.walk(ast.parse(plain)))
    imported = {a.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
    assert imported <= sys.stdlib_module_names
    assert not [n for n in nodes if isinstance(n, ast.ImportFrom)]


def test_the_environment_is_all_that_boot_reads() -> None:
    ends = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    made = start.environment(token="t" * 32, wheel=b"w", lifetime_s=60, idle_s=5, ends_by=ends,
                             end={"url": "http://x"}, certificate=("c", "k"))  # fmt: skip
    source = Path(start.__file__).with_name("boot.py").read_text()
    assert set(made) <= {part for part in source.split('"') if part.startswith("ACCEL_")}
    assert made["ACCEL_ENDS_AT"] == str(int(ends.timestamp()))
    assert made["ACCEL_WHEEL_SHA256"] == hashlib.sha256(b"w").hexdigest()


def test_its_lifetime_ends_it_and_its_provider_is_asked_until_it_agrees(tmp_path: Path) -> None:
    with provider(500, 429, 200) as there:
        with machine(tmp_path, lifetime_s=1, end=ask(there), extra=EXTRA) as box:
            assert box.ended() == 0
        assert [(m, p, h["Authorization"]) for m, p, h, _ in there.asked] == [
            ("DELETE", "/pods/pod7", f"Bearer {SECRET}")
        ] * 3  # fmt: skip
        assert "lifetime" in box.log
        assert SECRET not in box.log
        assert TOKEN not in box.log


@pytest.mark.parametrize("status", [404, 410])
def test_a_machine_that_is_gone_already_asks_once(tmp_path: Path, status: int) -> None:
    with provider(status) as there, machine(tmp_path, lifetime_s=0.5, end=ask(there), extra=EXTRA) as box:
        assert box.ended() == 0
        assert len(there.asked) == 1


def test_it_leaves_even_where_its_provider_never_agrees(tmp_path: Path) -> None:
    with provider(503) as there, machine(tmp_path, lifetime_s=0.5, end=ask(there), extra=EXTRA) as box:
        assert box.ended() == 0
        assert len(there.asked) == 5


@pytest.mark.parametrize("end", [{"url": "http://127.0.0.1:9/x", "pause_s": 0.01}, {"url": "no address"},
                                 {"nonsense": 1}, {"url": 7, "pause_s": "x"}])  # fmt: skip
def test_it_leaves_even_where_it_cannot_ask(tmp_path: Path, end: dict[str, object]) -> None:
    with machine(tmp_path, lifetime_s=0.5, end=end | {"pause_s": end.get("pause_s", 0.01)}) as box:
        box.ended()


def test_a_body_travels_with_the_request_filled_in_too(tmp_path: Path) -> None:
    with provider(200) as there:
        end = {"url": f"{there.url}/x", "method": "PUT", "body": '{"id": "{POD_ID}", "state": "stopped"}'}
        with machine(tmp_path, lifetime_s=0.5, end=end, extra=EXTRA) as box:
            box.ended()
        assert there.asked[0][0] == "PUT"
        assert json.loads(there.asked[0][3]) == {"id": "pod7", "state": "stopped"}


def test_who_never_delivers_does_not_keep_it_and_asking_how_it_is_does_not_either(tmp_path: Path) -> None:
    with provider(200) as there, machine(tmp_path, idle_s=1, end=ask(there)) as box:
        while box.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                health(box)
            time.sleep(0.02)
        assert "nobody used it" in box.log
        assert there.asked


def test_an_instant_holds_through_a_restart_of_the_container(tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    for again in ("a", "b"):  # the second one begins after the end, with a lifetime of its own
        with machine(tmp_path / again, lifetime_s=300, ends_by=soon) as box:
            assert box.ended() == 0
            assert "lifetime" in box.log


@pytest.mark.parametrize(
    "broken", [{"ACCEL_TOKEN": "short"}, {"ACCEL_PORT": "none"}, {"ACCEL_CERT": "no", "ACCEL_KEY": "no"}]
)
def test_what_cannot_be_started_ends_at_once(tmp_path: Path, broken: dict[str, str]) -> None:
    with provider(200) as there, machine(tmp_path, end=ask(there), extra=EXTRA | broken) as box:
        assert box.ended() == 0
        assert there.asked
        assert "Error" in box.log


def test_what_cannot_be_installed_is_told(tmp_path: Path) -> None:
    needs = "json=json-is-here numpy=numpy no_such_module=no-such-package-of-ours>=1"
    with machine(tmp_path, needs=needs, extra={"PIP_NO_INDEX": "1"}) as box:
        told = until(box, "failed")
        assert "no-such-package-of-ours" in told["message"]
        assert "installing no-such-package-of-ours>=1\n" in box.log  # and nothing that was there


def test_a_wheel_that_cannot_run_is_told(tmp_path: Path) -> None:
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as archive:
        archive.writestr("accel/__init__.py", "")
        archive.writestr("accel/worker/__init__.py", "")
        archive.writestr("accel/worker/server.py", "import a_module_that_is_missing")
    with machine(tmp_path, wheel=blob.getvalue()) as box:
        until(box, "waiting")
        assert httpx.put(f"{box.url}/wheel", headers=SIGNED, content=blob.getvalue()).status_code == 200
        assert "a_module_that_is_missing" in until(box, "failed")["message"]


@pytest.mark.parametrize("path", ["/health", "/wheel", "/embed"])
def test_without_the_token_it_is_a_wall(tmp_path: Path, path: str) -> None:
    with machine(tmp_path) as box:
        until(box, "waiting")
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for method in ("GET", "PUT", "POST", "DELETE"):
                assert httpx.request(method, f"{box.url}{path}", headers=headers).status_code == 401


def test_an_upload_that_breaks_off_is_delivered_again(tmp_path: Path) -> None:
    """First the sender goes away in the middle, then two send at once: one machine comes up."""
    with machine(tmp_path) as box:
        until(box, "waiting")
        with socket.create_connection(("127.0.0.1", box.port)) as sock:
            head = f"PUT /wheel HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            length = f"Content-Length: {len(wheel())}\r\n\r\n"
            sock.sendall((head + length).encode() + wheel()[: len(wheel()) // 2])
        assert health(box)["state"] == "waiting"
        large = httpx.put(f"{box.url}/wheel", headers=SIGNED, content=bytes(17 << 20))
        assert large.status_code == 413

        def send() -> None:
            with contextlib.suppress(httpx.TransportError):
                httpx.put(f"{box.url}/wheel", headers=SIGNED, content=wheel(), timeout=60)

        both = [threading.Thread(target=send) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert until(box, "ready", "failed")["state"] == "ready"


def test_the_server_carries_on_boots_clock_and_ends_itself_too(tmp_path: Path) -> None:
    with provider(200) as there, machine(tmp_path, idle_s=8, end=ask(there), extra=EXTRA) as box:
        until(box, "waiting")
        began = time.monotonic()
        httpx.put(f"{box.url}/wheel", headers=SIGNED, content=wheel(), timeout=60)
        told = until(box, "ready")
        assert told["ends_in_s"] + told["uptime_s"] == pytest.approx(300, abs=0.01)
        assert told["uptime_s"] >= time.monotonic() - began
        assert box.ended() == 0
        assert "nobody used it" in box.log
        assert len(there.asked) == 1
