"""Each alert goes each way at most once, whoever sends it and however they end; what failed is kept."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from monitoring.ledgers import NOW, Clock, budgets, offer, open_ledger, pay
from monitoring.receiver import Receiver
from pydantic import SecretStr

from accel.core.errors import OverBudget
from accel.core.runtime import Runtime
from accel.ledger import Ledger, alerts
from accel.monitoring import channels
from accel.monitoring.alerts import Delivered, deliver, delivering
from accel.monitoring.channels import Channel, Sent, Told

ROOT = Path(__file__).parents[2]
SENDER = Path(__file__).with_name("sender.py")
SECRET = "T0P-S3CRET"


def run(ledger: Ledger, channel: Channel) -> Delivered:
    return asyncio.run(deliver(ledger, channel, Runtime.production()))


def webhook(receiver: Receiver, path: str = "") -> Channel:
    return Channel(SecretStr(receiver.url + path))


def states(ledger: Ledger) -> dict[str, tuple[str, str]]:
    return {key: (state, note) for key, state, note in ledger.rows("SELECT key, state, note FROM alert")}


def raise_(ledger: Ledger, *keys: str) -> None:
    for key in keys:
        alerts.raise_(ledger, key, {"kind": "test", "n": 1})


def appending(tmp_path: Path, code: str = "") -> tuple[str, Path]:
    """A command that appends each alert's key to a file, and then runs ``code``."""
    out = tmp_path / "commanded"
    script = (
        "import sys, json, pathlib; f = pathlib.Path(sys.argv[1]).open('a');"
        "f.write(json.load(sys.stdin)['key'] + '\\n'); f.close();" + code
    )
    return shlex.join([sys.executable, "-c", script, str(out)]), out


def test_each_alert_is_sent_once_and_not_again_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a")
    clock.now = NOW + timedelta(seconds=1)
    raise_(ledger, "b", "a")
    assert run(ledger, webhook(receiver)) == Delivered(sent=2)
    assert receiver.keys == ["a", "b"], "oldest first"
    assert run(ledger, webhook(receiver)) == Delivered()
    ledger.close()
    again = open_ledger(tmp_path, clock)
    raise_(again, "a")
    assert run(again, webhook(receiver)) == Delivered()
    assert receiver.keys == ["a", "b"] and set(states(again).values()) == {("done", "")}


def test_what_is_sent_holds_the_alert_its_key_and_its_realm(tmp_path: Path, receiver: Receiver) -> None:
    ledger = open_ledger(tmp_path)
    alerts.raise_(ledger, "k", {"kind": "target", "text": "p95 is 9 s", "realm": "forged", "key": "forged"})
    run(ledger, webhook(receiver))
    assert receiver.posts[0][2] == {
        "schema": 1, "key": "k", "realm": "real", "at": NOW.isoformat(), "kind": "target",
        "text": "p95 is 9 s",
    }  # fmt: skip
    assert receiver.posts[0][1]["idempotency-key"] == "k"


def test_a_budgets_alerts_are_sentences(tmp_path: Path, receiver: Receiver) -> None:
    """Through the real budgets: a share that is reached, and a reservation that was refused."""
    ledger = open_ledger(tmp_path)
    limits = budgets(ledger, month="1")
    pay(limits, "half", 5_000)
    with pytest.raises(OverBudget):
        limits.reserve("too much", offer(), 36_000, "t")
    run(ledger, webhook(receiver))
    by_key = {body["key"]: body["text"] for _, _, body in receiver.posts}
    assert by_key == {
        "budget:all:month:2026-11:0.5":
            "accel, realm real: 50% of the budget of the month of all providers is reached: $0.50 of $1.00",
        "budget:all:month:2026-11:refused":
            "accel, realm real: the budget of the month of all providers had no room for $3.60; nothing was "
            "started. $0.50 of $1.00 is charged, $0 reserved",
    }  # fmt: skip


def test_without_a_channel_they_wait(tmp_path: Path, receiver: Receiver) -> None:
    ledger = open_ledger(tmp_path)
    raise_(ledger, "a")
    assert run(ledger, Channel()) == Delivered(waiting=1)
    assert run(ledger, webhook(receiver)).sent == 1 and receiver.keys == ["a"]


def test_a_webhook_that_is_down_is_tried_again_later_and_nothing_is_lost(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a", "b")
    receiver.status = 503
    told = run(ledger, webhook(receiver))
    assert (told.sent, told.again, told.lost, told.waiting) == (0, 2, 0, 2) and "HTTP 503" in told.why
    assert Counter(receiver.keys) == {"a": 1, "b": 1}, "once per call, not until it works"
    assert all(state == "pending" and "HTTP 503" in note for state, note in states(ledger).values())
    receiver.status = 200
    clock.now = NOW + timedelta(seconds=59)
    assert run(ledger, webhook(receiver)) == Delivered(waiting=2), "not before its pause is over"
    clock.now = NOW + timedelta(seconds=60)
    assert run(ledger, webhook(receiver)) == Delivered(sent=2)
    assert Counter(receiver.keys) == {"a": 2, "b": 2}
    assert set(states(ledger).values()) == {("done", "")}


def test_tries_are_limited_and_their_pauses_grow(tmp_path: Path, receiver: Receiver) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a")
    receiver.status = 500
    ends: list[Delivered] = []
    for tries in range(1, alerts.TRIES + 1):
        ends.append(run(ledger, webhook(receiver)))
        clock.now += alerts.pause(tries)
    assert len(receiver.posts) == alerts.TRIES
    assert [d.again for d in ends] == [1] * (alerts.TRIES - 1) + [0] and ends[-1].lost == 1
    state, note = states(ledger)["a"]
    assert state == "failed" and "HTTP 500" in note, "kept, with its reason"
    clock.now += timedelta(days=30)
    assert run(ledger, webhook(receiver)) == Delivered() and len(receiver.posts) == alerts.TRIES
    pauses = [alerts.pause(t) for t in range(1, alerts.TRIES)]
    assert pauses == sorted(pauses) and sum(pauses, timedelta()) > timedelta(hours=12), "outlasts a night"


def test_no_answer_is_never_asked_again(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "WEBHOOK_S", 0.2)
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a")
    receiver.silent = True
    told = run(ledger, webhook(receiver))
    assert (told.sent, told.again, told.lost) == (0, 0, 1)
    assert states(ledger)["a"][0] == "failed" and "after it was sent" in states(ledger)["a"][1]
    receiver.silent = False
    clock.now += timedelta(days=3)
    assert run(ledger, webhook(receiver)) == Delivered() and receiver.keys == ["a"]


def test_what_one_way_took_is_not_sent_to_it_again_when_the_other_failed(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a")
    line, out = appending(tmp_path)
    both = Channel(SecretStr(receiver.url), SecretStr(line))
    receiver.status = 500
    assert run(ledger, both).again == 1
    receiver.status = 200
    clock.now += timedelta(minutes=1)
    assert run(ledger, both).sent == 1
    assert receiver.keys == ["a", "a"] and out.read_text() == "a\n"
    assert states(ledger)["a"] == ("done", "")


def test_an_unsure_way_stays_unsure_when_the_other_succeeds_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a")
    script = [("webhook", Told.UNSURE), ("command", Told.NOT), ("command", Told.TAKEN)]
    asked: list[str] = []

    async def send(self: Channel, way: str, *_: Any) -> Sent:
        asked.append(way)
        expected, told = script[len(asked) - 1]
        assert way == expected
        return Sent(told, "" if told is Told.TAKEN else f"{way} {told}")

    monkeypatch.setattr(Channel, "send", send)
    both = Channel(SecretStr("http://127.0.0.1:9"), SecretStr("true"))
    assert run(ledger, both).again == 1
    clock.now += timedelta(minutes=1)
    assert run(ledger, both).lost == 1
    assert states(ledger)["a"] == ("failed", "it may have been taken")


def test_the_address_is_nowhere_in_the_ledger(tmp_path: Path, receiver: Receiver) -> None:
    ledger = open_ledger(tmp_path)
    raise_(ledger, "a", "b")
    receiver.status = 500
    told = run(ledger, webhook(receiver, f"/{SECRET}"))
    run(ledger, Channel(command=SecretStr(f"/no/such/program --token {SECRET}")))
    ledger.close()
    assert SECRET not in repr(told)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_a_process_that_goes_on_delivers_meanwhile_and_what_is_raised_last(
    tmp_path: Path, receiver: Receiver
) -> None:
    ledger = open_ledger(tmp_path)
    raise_(ledger, "before")

    async def go_on() -> None:
        async with delivering(ledger, webhook(receiver), Runtime.production(), every_s=0.01):
            await asyncio.to_thread(until, lambda: receiver.keys == ["before"], "the first is sent")
            raise_(ledger, "meanwhile")
            await asyncio.to_thread(until, lambda: len(receiver.keys) == 2, "the second is sent")
        async with delivering(ledger, webhook(receiver), Runtime.production(), every_s=3600):
            raise_(ledger, "at the end")

    asyncio.run(asyncio.wait_for(go_on(), 60))
    assert receiver.keys == ["before", "meanwhile", "at the end"]


# Processes that race, and processes that die ------------------------------------------------------


def start(tmp_path: Path, receiver: Receiver, name: str, **more: Any) -> subprocess.Popen[bytes]:
    config = tmp_path / f"{name}.json"
    config.write_text(
        json.dumps({"ledger": str(tmp_path / "ledger.sqlite3"), "webhook": receiver.url, **more})
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(SENDER), str(config)], env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )  # fmt: skip


def until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def test_four_processes_that_race_send_each_alert_exactly_once(tmp_path: Path, receiver: Receiver) -> None:
    ledger = open_ledger(tmp_path)
    keys = [f"alert {i}" for i in range(40)]
    raise_(ledger, *keys)
    gate = tmp_path / "gate"
    racing = [start(tmp_path, receiver, f"{i}", start=str(gate)) for i in range(4)]
    until(lambda: len(list(tmp_path.glob("gate.*"))) == 4, "all are at the start")
    gate.touch()
    sent = [json.loads(p.communicate(timeout=60)[0])["sent"] for p in racing]
    assert all(p.returncode == 0 for p in racing)
    assert Counter(receiver.keys) == dict.fromkeys(keys, 1)
    assert sum(sent) == 40 and sum(n > 0 for n in sent) > 1, f"they did race: {sent}"
    assert alerts.counts(ledger) == {"done": 40}


def test_a_process_that_dies_between_claim_and_send_is_not_followed_by_a_second_sender(
    tmp_path: Path, receiver: Receiver
) -> None:
    ledger = open_ledger(tmp_path)
    raise_(ledger, "a")
    dead = start(tmp_path, receiver, "dead", die="claimed")
    dead.communicate(timeout=60)
    assert dead.returncode == -signal.SIGKILL
    assert alerts.counts(ledger) == {"sending": 1}
    told = run(ledger, webhook(receiver))
    assert (told.sent, told.lost, told.waiting) == (0, 1, 0) and "died" in told.why
    assert receiver.keys == [], "at most once: nobody can tell that it was not sent"
    assert states(ledger)["a"] == ("failed", "its sender died; it may have been sent")
    assert run(ledger, webhook(receiver)) == Delivered(), "and it is reported once"


def test_a_process_killed_while_it_waits_for_the_answer_has_sent_once(
    tmp_path: Path, receiver: Receiver
) -> None:
    ledger = open_ledger(tmp_path)
    raise_(ledger, "a")
    receiver.silent = True
    sender = start(tmp_path, receiver, "killed")
    until(lambda: bool(receiver.posts), "it has sent")
    assert run(ledger, webhook(receiver)) == Delivered(), "another that looks meanwhile leaves it alone"
    sender.kill()
    sender.communicate()
    receiver.silent = False
    receiver.ended.set()
    assert run(ledger, webhook(receiver)).lost == 1
    assert receiver.keys == ["a"]


@pytest.mark.parametrize("moment", ["claiming", "sending"])
def test_cancelled_it_says_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ctrl-C: what was only claimed goes out later, what may have been sent does not."""
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    raise_(ledger, "a")
    reached = asyncio.Event()
    asked = 0

    async def hang(self: Channel, *_: Any) -> Sent:
        nonlocal asked
        asked += 1
        reached.set()
        await asyncio.sleep(3600)
        raise AssertionError

    claim = alerts.claim

    def slow(ledger: Ledger) -> alerts.Alert | None:
        found = claim(ledger)
        if moment == "claiming":
            loop.call_soon_threadsafe(reached.set)
            time.sleep(0.2)
        return found

    async def cancel() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(deliver(ledger, Channel(SecretStr("http://h")), Runtime.production()))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop: asyncio.AbstractEventLoop
    monkeypatch.setattr(Channel, "send", hang)
    monkeypatch.setattr(alerts, "claim", slow)
    asyncio.run(cancel())
    state, note = states(ledger)["a"]
    if moment == "claiming":
        assert (state, note, asked) == ("pending", "interrupted before it was sent", 0)
    else:
        assert (state, note, asked) == ("failed", "interrupted while it was sent; it may have been taken", 1)
