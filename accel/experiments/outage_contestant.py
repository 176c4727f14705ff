"""What every contestant of the outage benchmark does. Guarantee: one schedule, one clock, one count for all.

Standard library only, because it also runs in a rival's own environment. A contestant is a process of its
own: it is given a ``Plan`` on its command line, says that it is ready, is told on its standard input when to
begin and when enough was seen, and prints what became of each request and when it opened connections.

The clock is ``time.monotonic``, which all processes of one machine share. Connections are counted by
Python's own audit event ``socket.connect`` (Python documentation, "Audit events table"), raised before the
system call: so a connection counts that nobody accepts, and that no server could count.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any

DIMENSION = 8
MARK = "outage: "  # in front of each line that is meant for the harness: libraries print to stdout too
Ask = Callable[[str], Awaitable[Sequence[float]]]
"""One text in, its vector out; raises when there is no answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask, and when. Instants count from the beginning, which the harness names.

    contestant: whose turn, and in which set-up. primary, fallback: base URLs that end in /v1. warm:
    requests before the beginning, one every ``warm_every_s``, the last of them that long before it.
    requests: how many from then on, one every ``every_s``, whatever became of the one before. dead: how
    many of those meet the dead primary. more: how many at most follow until told that it is enough.
    patience_s: after this the caller gives up.
    """

    contestant: str
    primary: str
    fallback: str
    warm: int = 20
    warm_every_s: float = 0.4
    requests: int = 20
    dead: int = 15
    every_s: float = 4.0
    more: int = 20
    patience_s: float = 30.0

    def due(self) -> list[float]:
        """When each request is sent: seconds from the beginning, below 0 for the warm-up."""
        warm = [-(self.warm - i) * self.warm_every_s for i in range(self.warm)]
        return warm + [i * self.every_s for i in range(self.requests + self.more)]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. due: seconds from the beginning. began, ended: monotonic seconds. error: "" when the right
    vector came back."""

    text: str
    due: float
    began: float
    ended: float
    error: str = ""


def vector_of(text: str) -> list[float]:
    """The one right answer: ``DIMENSION`` multiples of 2^-15 in [-1, 1), from BLAKE2b; exact in float32."""
    digest = hashlib.blake2b(text.encode(), digest_size=2 * DIMENSION).digest()
    pairs = zip(digest[::2], digest[1::2], strict=True)
    return [(((low | high << 8) ^ 0x8000) - 0x8000) / 32768 for low, high in pairs]


def compete(
    prepare: Callable[[Plan], AbstractAsyncContextManager[Ask]], versions: Callable[[], dict[str, str]]
) -> int:
    """A contestant's whole life: plan from the command line, result to standard output."""
    connects: list[tuple[int, float]] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(args[1], tuple):
            connects.append((args[1][1], time.monotonic()))

    sys.addaudithook(hook)
    plan = Plan(**json.loads(sys.argv[1]))
    asyncio.run(_compete(plan, prepare, versions, connects))
    return 0


async def _compete(
    plan: Plan, prepare: Callable[[Plan], AbstractAsyncContextManager[Ask]],
    versions: Callable[[], dict[str, str]], connects: list[tuple[int, float]],
) -> None:  # fmt: skip
    async with prepare(plan) as ask:
        _say({"ready": versions()})
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            return  # the harness is gone
        enough = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        asked = await play(plan, ask, float(line), enough)
        _say({"asked": [asdict(a) for a in asked], "connects": connects})
        await enough  # until the harness has read it all


async def play(plan: Plan, ask: Ask, begin: float, enough: asyncio.Future[str]) -> list[Asked]:
    """Send every request of ``plan`` at its time; ``enough`` ends those beyond the planned ones."""
    sent: list[asyncio.Task[Asked]] = []
    for number, due in enumerate(plan.due()):
        ahead = begin + due - time.monotonic()
        if number >= plan.warm + plan.requests:
            await asyncio.wait({enough}, timeout=max(0.0, ahead))
            if enough.done():
                break
        else:
            await asyncio.sleep(max(0.0, ahead))
        sent.append(asyncio.create_task(_one(ask, f"request {number}", due, plan.patience_s)))
    return list(await asyncio.gather(*sent))


async def _one(ask: Ask, text: str, due: float, patience_s: float) -> Asked:
    began, error = time.monotonic(), ""
    try:
        async with asyncio.timeout(patience_s):
            vector = await ask(text)
        if [float(x) for x in vector] != vector_of(text):
            error = "the wrong vector"
    except Exception as failure:  # whatever a contestant raises, its caller has no answer
        error = f"{type(failure).__name__}: {failure}"[:300]
    return Asked(text, due, began, time.monotonic(), error)


def _say(what: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{MARK}{json.dumps(what)}\n")
        sys.stdout.flush()
