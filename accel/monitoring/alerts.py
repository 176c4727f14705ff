"""Alerts delivered. Guarantee: each goes each way at most once, by one process, across restarts.

An alert is claimed in the ledger before anything is sent. One that certainly was not taken waits and is
tried again by a later call, after pauses that grow; one that may have been taken is not, and neither is one
whose sender died: it stays in the ledger as failed, with the reason. Where webhook and command are both set,
what one of them took is not sent to it again because the other failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from accel.core.errors import LedgerError
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.ledger import Ledger, alerts
from accel.ledger.alerts import Alert
from accel.monitoring.channels import Channel, Told

log = logging.getLogger(__name__)
EVERY_S = 30.0
SCHEMA = 1  # of what is sent: fields are added, never changed
INTERRUPTED = "interrupted while it was sent; it may have been taken"


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one ``deliver`` did. again: not taken, and to be tried again. lost: given up, or unsure.

    waiting: what is still to be sent. why: the last reason that something was not taken, or "".
    """

    sent: int = 0
    again: int = 0
    lost: int = 0
    waiting: int = 0
    why: str = ""


async def deliver(ledger: Ledger, channel: Channel, runtime: Runtime) -> Delivered:
    """Send every alert that is due, each way that is set; without one they wait.

    The ledger's work and the command run off the loop. Raises LedgerError; what a receiver does never
    raises. Cancelled, it leaves what was being sent as failed, because it may have been taken.
    """
    lost = await runtime.offload(alerts.recover, ledger)
    ended, why = Counter(failed=lost), ["the sender of an alert died while it sent it"] if lost else []
    while channel.ways and (alert := await _claim(ledger, runtime)) is not None:
        state, reason = await _send(ledger, alert, channel, runtime)
        ended[state] += 1
        why += [reason] if reason else []
    waiting = await runtime.offload(alerts.pending, ledger)
    return Delivered(ended["done"], ended["pending"], ended["failed"], waiting, why[-1] if why else "")


@contextlib.asynccontextmanager
async def delivering(
    ledger: Ledger, channel: Channel, runtime: Runtime, every_s: float = EVERY_S
) -> AsyncIterator[None]:
    """Deliver what is due every ``every_s`` seconds and once more at the end; nothing without a channel.

    A delivery that is under way at the end is waited for: cut off, it could not be told from one taken.
    """
    if not channel.ways:
        yield
        return
    over = asyncio.Event()

    async def deliver_on() -> None:
        while True:
            try:
                await deliver(ledger, channel, runtime)
            except LedgerError as failure:
                log.warning("alerts cannot be delivered now: %s", failure)
            if over.is_set():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await over.wait()

    sender = asyncio.create_task(deliver_on())
    try:
        yield
    finally:
        over.set()
        await sender


def message(alert: Alert, realm: Realm) -> dict[str, Any]:
    """What is sent: the alert's own fields, its key (by which a repetition can be told) and one sentence.

    ``text`` is where the webhooks of chat programs look for it.
    """
    told = {"schema": SCHEMA, "key": alert.key, "realm": realm.value, "at": alert.made_at.isoformat()}
    return {"text": _sentence(alert, realm), **alert.body, **told}


def _sentence(alert: Alert, realm: Realm) -> str:
    body = alert.body
    if body.get("kind") == "launches":
        return (
            f"accel, realm {realm}: {body['limit']} machines were rented within an hour, and one more, at "
            f"{body['provider']}, was refused. See: accel leases"
        )
    if body.get("kind") != "budget":
        return f"accel, realm {realm}: {alert.key}"
    credit = body["period"] == "credit"
    what = "prepaid credit" if credit else f"budget of the {body['period']}"
    whose = f"{what} of {body['provider'] or 'all providers'}"
    used, limit = dollars(NanoUSD(body["used"])), dollars(NanoUSD(body["limit"]))
    if "share" in body:
        return f"accel, realm {realm}: {body['share']:.0%} of the {whose} is reached: {used} of {limit}"
    return (
        f"accel, realm {realm}: the {whose} had no room for {dollars(NanoUSD(body['asked']))}; nothing was "
        f"started. {used} of {limit} is charged, {dollars(NanoUSD(body['held']))} reserved"
    )


async def _claim(ledger: Ledger, runtime: Runtime) -> Alert | None:
    """The next alert that is due. Interrupted meanwhile, it is put back: nothing was sent."""
    claiming = asyncio.ensure_future(runtime.offload(alerts.claim, ledger))
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        if (alert := await claiming) is not None:
            alerts.ended(ledger, alert.key, False, "interrupted before it was sent", ways=alert.ways)
        raise


async def _send(ledger: Ledger, alert: Alert, channel: Channel, runtime: Runtime) -> tuple[str, str]:
    """Send one alert each way that it may still go; its state from here on, and why it was not taken."""
    ways, why, missed = dict(alert.ways), [], False
    body = json.dumps(message(alert, ledger.realm)).encode()
    try:
        for way in channel.ways:
            if way not in ways:
                answer = await channel.send(way, body, alert.key, runtime)
                why += [answer.why] if answer.why else []
                missed = missed or answer.told is Told.NOT
                if answer.told is not Told.NOT:
                    ways[way] = answer.told.value
    except BaseException:
        # not off the loop: this task may be given no further turn
        alerts.ended(ledger, alert.key, False, INTERRUPTED, ways=ways, again=False)
        raise
    ok = not missed and Told.UNSURE.value not in ways.values()
    note = "; ".join(why) or ("" if ok else "it may have been taken")
    end = partial(alerts.ended, ledger, alert.key, ok, note, ways=ways, again=missed)
    return await runtime.offload(end), note
