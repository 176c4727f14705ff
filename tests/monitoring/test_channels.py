"""One sending is one sending, what became of it is told apart, and no secret comes back out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
import socket
import sys
import time
from pathlib import Path

import pytest
from monitoring.receiver import Receiver
from pydantic import SecretStr

from accel.core.errors import SettingsError
from accel.core.runtime import Runtime
from accel.monitoring import channels
from accel.monitoring.channels import Channel, Sent, Told

BODY = json.dumps({"key": "k1", "text": "half of the budget is used"}).encode()
SECRET = "T0P-S3CRET"


def send(channel: Channel, way: str = "webhook") -> Sent:
    return asyncio.run(channel.send(way, BODY, "k1", Runtime.production()))


def webhook(url: str) -> Channel:
    return Channel(webhook=SecretStr(url))


def command(*argv: str) -> Channel:
    return Channel(command=SecretStr(shlex.join(argv)))


def python(code: str) -> Channel:
    return command(sys.executable, "-c", code)


def test_a_webhook_gets_one_post_with_the_alert_and_its_key(receiver: Receiver) -> None:
    assert send(webhook(f"{receiver.url}/{SECRET}?x=1")) == Sent(Told.TAKEN)
    ((path, headers, body),) = receiver.posts
    assert path == f"/{SECRET}?x=1" and body == json.loads(BODY)
    assert headers["content-type"] == "application/json" and headers["idempotency-key"] == "k1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}" and "authorization" not in headers


def test_a_name_and_password_in_the_address_become_a_header(receiver: Receiver) -> None:
    url = f"http://me:pass%20word@127.0.0.1:{receiver.port}/x"
    assert send(webhook(url)).told is Told.TAKEN
    assert receiver.posts[0][1]["authorization"] == "Basic bWU6cGFzcyB3b3Jk"  # me:pass word


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_answer_that_is_not_2xx_is_not_taken(receiver: Receiver, status: int) -> None:
    receiver.status = status
    sent = send(webhook(receiver.url))
    assert sent.told is Told.NOT and f"HTTP {status}" in sent.why and len(receiver.posts) == 1


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.location = 307, f"{receiver.url}/elsewhere"
    sent = send(webhook(f"{receiver.url}/here"))
    assert sent.told is Told.NOT and "redirects are not followed" in sent.why
    assert [path for path, _, _ in receiver.posts] == ["/here"]


def test_nobody_listening_is_certainly_not_taken() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sent = send(webhook(f"http://127.0.0.1:{port}/{SECRET}"))
    assert sent == Sent(Told.NOT, f"http://127.0.0.1:{port}: ConnectError, before it was sent")


def test_no_answer_in_time_is_unsure_because_it_may_have_been_acted_on(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "WEBHOOK_S", 0.3)
    receiver.silent = True
    sent = send(webhook(receiver.url))
    assert sent.told is Told.UNSURE and "no answer within" in sent.why and len(receiver.posts) == 1


def test_a_connection_cut_after_the_request_is_unsure(receiver: Receiver) -> None:
    receiver.drops = True
    sent = send(webhook(receiver.url))
    assert sent.told is Told.UNSURE and "after it was sent" in sent.why


def test_an_answer_that_drips_does_not_outlast_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out that begins again with every byte is none."""
    monkeypatch.setattr(channels, "WEBHOOK_S", 0.5)

    async def run() -> Sent:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while True:
                    writer.write(b"H")
                    await writer.drain()
                    await asyncio.sleep(0.1)

        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            sent = await webhook(f"http://127.0.0.1:{port}").send("webhook", BODY, "k", Runtime.production())
        server.close()
        return sent

    assert asyncio.run(run()).told is Told.UNSURE


def test_a_command_gets_the_alert_on_its_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "with a space"
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    assert send(command(sys.executable, "-c", code, str(out)), "command") == Sent(Told.TAKEN)
    assert out.read_bytes() == BODY


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "words"
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(repr(sys.argv[2:]))"
    line = f"{sys.executable} -c {shlex.quote(code)} {out} $HOME `id` ; touch {tmp_path}/made && *"
    assert send(Channel(command=SecretStr(line)), "command").told is Told.TAKEN
    assert eval(out.read_text()) == ["$HOME", "`id`", ";", "touch", f"{tmp_path}/made", "&&", "*"]
    assert not (tmp_path / "made").exists()


def test_a_command_sees_no_secret_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KAGGLE_KEY", "MODAL_TOKEN_SECRET", "ACCEL_ALERT_WEBHOOK", "DB_PASSWD", "my_password"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("PLAIN", "kept")
    out = tmp_path / "environment"
    code = "import os, sys, json, pathlib; pathlib.Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)))"
    send(command(sys.executable, "-c", code, str(out)), "command")
    seen = json.loads(out.read_text())
    assert seen["PLAIN"] == "kept" and "PATH" in seen
    assert SECRET not in seen.values()


@pytest.mark.parametrize(
    ("code", "told", "why"),
    [
        ("raise SystemExit(3)", Told.NOT, "exit code 3"),
        ("import sys; sys.stdin.close(); raise SystemExit(0)", Told.TAKEN, ""),
        ("import os; os.kill(os.getpid(), 9)", Told.UNSURE, "signal 9"),
    ],
)
def test_how_a_command_ended_is_told_apart(code: str, told: Told, why: str) -> None:
    sent = send(python(code), "command")
    assert sent.told is told and why in sent.why


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/hostname"], ["/"], [""]])
def test_a_command_that_cannot_be_started_is_not_taken(argv: list[str]) -> None:
    sent = send(command(*argv), "command")
    assert sent.told is Told.NOT and "cannot be started" in sent.why


def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "COMMAND_S", 1.0)
    note = tmp_path / "child"
    code = (
        "import subprocess, sys, pathlib, time; p = subprocess.Popen(['sleep', '600']);"
        "pathlib.Path(sys.argv[1]).write_text(str(p.pid)); time.sleep(600)"
    )
    sent = send(command(sys.executable, "-c", code, str(note)), "command")
    assert sent.told is Told.UNSURE and "killed" in sent.why
    child = int(note.read_text())
    ends = time.monotonic() + 5
    while time.monotonic() < ends and _lives(child):
        time.sleep(0.01)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://h/{SECRET}", f"file:///{SECRET}", f"http:///{SECRET}", SECRET, f"https://h:port/{SECRET}",
        f"http://[::1/{SECRET}", f"http://h/\0{SECRET}", f"javascript:{SECRET}", f"HTTPX://h/{SECRET}",
    ],
)
def test_what_is_no_web_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        webhook(url)
    assert SECRET not in str(refused.value) and refused.value.__cause__ is None


@pytest.mark.parametrize("line", [f"notify '{SECRET}", "   ", f"a\0{SECRET}", "\\"])
def test_what_is_no_command_is_refused_without_repeating_it(line: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Channel(command=SecretStr(line))
    assert SECRET not in str(refused.value)


def test_only_scheme_host_and_program_are_ever_shown() -> None:
    channel = Channel(
        SecretStr(f"https://user:{SECRET}@hooks.example.com:8443/{SECRET}?t={SECRET}"),
        SecretStr(f"/opt/x/notify --token {SECRET}"),
    )
    assert channel.shown == "webhook https://hooks.example.com:8443 and command notify"
    assert channel.ways == ("webhook", "command")
    assert SECRET not in repr(channel) + str(channel)
    assert Channel().ways == () and "no webhook" in Channel().shown


@pytest.mark.parametrize("trouble", ["none", "status", "silent", "refused"])
def test_no_log_line_of_any_library_holds_the_address(
    receiver: Receiver, trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "WEBHOOK_S", 0.3)
    receiver.status, receiver.silent = (500 if trouble == "status" else 200), trouble == "silent"
    port = 1 if trouble == "refused" else receiver.port
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("httpx").setLevel(logging.DEBUG)
        logging.getLogger("httpcore").setLevel(logging.DEBUG)
        sent = send(webhook(f"http://me:{SECRET}@127.0.0.1:{port}/{SECRET}"))
    assert caplog.records, "the libraries log at this level: otherwise this test sees nothing"
    assert SECRET not in caplog.text + sent.why and "Basic" not in caplog.text
