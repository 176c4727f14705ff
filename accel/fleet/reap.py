"""Reap. Guarantee: what nobody works with any more is ended, confirmed and booked; the rest is left alone.

Every provider's own list is held against the ledger. Ours is what bears a name of ours. It is left alone
while a process works on its job (the job's lock) or uses it (a living user of a replica), and where it costs
nothing and can be carried on. A list that cannot be had is *unknown*: nothing is concluded from it. What the
ledger does not know may belong to another machine of the same person, and is ended only when that is asked
for.

Nothing is done unless ``act`` is set. Each thing ends in steps that may be repeated (release) or are one
transaction (the booking), so that it may be killed anywhere, and called again.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from accel.core.errors import AccelError, ProviderError
from accel.core.lease import Lease, Released, Unknown
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Billing
from accel.fleet.board import Board
from accel.fleet.jobs import JobRunner
from accel.fleet.leases import ANSWER_S, Ending, Leases
from accel.ledger import Job, JobStep, Ledger, jobs, leases
from accel.ledger.leases import Purpose, Rented
from accel.providers.base import Provider

PREFIX = "accel-"
# Ours: a list may lag behind an order by seconds; what is this old and not in it does not exist.
LISTED_AFTER_S = 120.0
BILLED_WITHIN = timedelta(days=40)  # a bill that is later than a month's invoice does not come


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing, or one provider whose list is unknown (name "").

    intent_id: "" where the ledger does not know it. action: "release", "bill", or "keep"; why, in words.
    done: what became of it, "" where nothing was to be done yet. ended: nothing of it can cost anything any
    more. charge: nano-dollars that it is charged now, None where that is not known.
    """

    provider: str
    name: str
    intent_id: str
    action: str
    why: str
    done: str = ""
    ended: bool = False
    charge: NanoUSD | None = None


class Reaper:
    """Looks, and with ``act`` ends. others: also what bears our name and is not of this ledger."""

    def __init__(
        self, board: Board, ledger: Ledger, leases_: Leases, runner: JobRunner, *, act: bool, others: bool
    ) -> None:
        self._board, self._ledger, self._leases, self._runner = board, ledger, leases_, runner
        self._act, self._others = act, others

    async def run(self) -> tuple[Finding, ...]:
        """Everything that was found, by provider; never raises for a provider's failure."""
        open_ = leases.unconfirmed(self._ledger)
        providers = self._board.providers
        found = await asyncio.gather(
            *(self._one(p, [r for r in open_ if r.provider == name]) for name, p in providers.items())
        )
        away = [
            Finding(r.provider, r.intent.name, r.id, "keep", f"{r.provider} is not set up now")
            for r in open_ if r.provider not in self._board.providers
        ]  # fmt: skip
        return tuple(f for findings in (*found, away) for f in findings)

    async def _one(self, provider: Provider, open_: list[Rented]) -> list[Finding]:
        listed = await self._listed(provider)
        found: list[Finding] = []
        if isinstance(listed, Unknown):
            found.append(Finding(provider.name, "", "", "keep", f"its list is unknown: {listed.reason}"))
        for rented in open_:
            found.append(await self._guarded(self._plan(rented, listed), rented))
        known = {r.intent.name for r in open_}
        for lease in () if isinstance(listed, Unknown) else listed:
            if lease.name.startswith(PREFIX) and lease.name not in known:
                found.append(await self._stray(provider, lease, listed))
        since = self._ledger.now() - BILLED_WITHIN
        late = [r for r in leases.unbilled(self._ledger, since) if r.provider == provider.name]
        found += await self._bills(late)
        return found

    async def _listed(self, provider: Provider) -> tuple[Lease, ...] | Unknown:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await provider.leases()
        except (ProviderError, TimeoutError) as silent:
            return Unknown(str(silent) or "no answer")

    # What the ledger knows ------------------------------------------------------------------------

    def _plan(self, rented: Rented, listed: tuple[Lease, ...] | Unknown) -> Finding:
        """Whether it is to be ended, and why, or why not."""
        if isinstance(listed, Unknown):
            seen = "whether it runs is not known"
        elif rented.intent.name in {lease.name for lease in listed}:
            seen = "it runs"
        else:
            seen = "its provider does not list it"
        job = _job_of(self._ledger, rented)
        keep = ""
        if rented.purpose is Purpose.REPLICA and rented.state != "abandoned":
            if leases.in_use(self._ledger, rented.id) or self._ledger.owner in rented.users:
                keep = "a living process uses it"
            why = f"a live replica whose processes are gone; {seen}"
        elif job is not None:
            with jobs.worked_on_here(job) as free:
                keep = "" if free else f"a process works on job {job.id}"
            if not keep and rented.intent.offer.billing is not Billing.SECONDS:
                keep = f"job {job.id} costs nothing there; carry it on with: accel push --resume"
            why = f"nobody works on job {job.id} ({job.step}); {seen}"
            if job.step in (JobStep.FINISHED, JobStep.FETCHED):
                why += ", and its result is brought home first"
        elif rented.state == "abandoned":
            why = f"nobody confirmed its end; {seen}"
        else:
            why = f"no job belongs to it; {seen}"
        return self._finding(rented, "keep" if keep else "release", keep or why)

    async def _guarded(self, plan: Finding, rented: Rented, lease: Lease | None = None) -> Finding:
        """Do what was planned; a failure is told, and does not stop the others. lease: as it was listed."""
        if plan.action == "keep" or not self._act:
            return plan
        try:
            return await self._end(plan, rented, lease)
        except AccelError as failed:
            return dataclasses.replace(plan, done=f"failed: {failed}")

    async def _end(self, plan: Finding, rented: Rented, lease: Lease | None) -> Finding:
        job = _job_of(self._ledger, rented)
        if job is not None:
            after = await self._runner.give_up(job.id)
            if after is None:
                return dataclasses.replace(plan, action="keep", why=f"a process works on job {job.id} now")
        elif rented.purpose is Purpose.REPLICA and rented.state in ("intended", "open"):
            if not leases.leave(self._ledger, rented.id):
                return dataclasses.replace(plan, action="keep", why="a living process uses it now")
            await self._leases.end(rented.intent)
        if lease is not None or leases.get(self._ledger, rented.id).state not in ("released", "absent"):
            await self._release(rented, lease)
        now = leases.get(self._ledger, rented.id)
        ended = now.state in ("released", "absent")
        done = f"may still run: {now.note}"
        if ended:
            done = "released" if now.state == "released" else "was never created"
        return dataclasses.replace(self._finding(now, plan.action, plan.why), done=done, ended=ended)

    async def _release(self, rented: Rented, lease: Lease | None) -> None:
        """Release what may still run, or take the provider's own list for its word that it is gone."""
        if lease is not None:
            leases.note(self._ledger, rented.id, lease)
        elapsed_s = self._leases.elapsed_s(rented.intent)
        ending = await self._leases.release(rented.intent, used_s=elapsed_s)
        old = elapsed_s > LISTED_AFTER_S
        if ending.state == "abandoned" and old:
            listed = await self._listed(self._board.providers[rented.provider])
            if not isinstance(listed, Unknown) and rented.intent.name not in {one.name for one in listed}:
                lease = leases.get(self._ledger, rented.id).lease
                bill = await self._leases.bill(rented.intent, lease) if lease else None
                state, used_s = ("released", ending.used_s) if lease else ("absent", 0.0)
                ending = Ending(state, "its provider does not list it", used_s, bill)
        self._leases.book(rented.intent, ending)

    # What it does not -----------------------------------------------------------------------------

    async def _stray(
        self, provider: Provider, lease: Lease, listed: tuple[Lease, ...] | Unknown
    ) -> Finding:
        """Listed, and not among what the ledger took to be open."""
        rented = leases.by_name(self._ledger, provider.name, lease.name)
        if rented is not None and rented.state not in ("released", "absent"):  # begun a moment ago
            return await self._guarded(self._plan(rented, listed), rented)
        if rented is not None:
            plan = self._finding(rented, "release", f"it runs, and the ledger has it as {rented.state}")
            return await self._guarded(plan, rented, lease)
        why = "it is not of this ledger: another machine's of yours, or of a ledger that was lost"
        if not self._others:
            return Finding(provider.name, lease.name, "", "keep", f"{why}; --others ends it")
        plan = Finding(provider.name, lease.name, "", "release", why)
        if not self._act:
            return plan
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await provider.release(lease)
        except (ProviderError, TimeoutError) as failed:
            return dataclasses.replace(plan, done=f"failed: {failed}")
        if isinstance(answer, Released):
            return dataclasses.replace(plan, done="released", ended=True)
        return dataclasses.replace(plan, done=f"may still run: {answer.reason}")

    async def _bills(self, late: Iterable[Rented]) -> list[Finding]:
        found = []
        for rented in late:
            assert rented.lease is not None
            bill = await self._leases.bill(rented.intent, rented.lease)
            if bill is None:
                continue
            plan = self._finding(rented, "bill", f"its bill has come: {dollars(bill.amount)}")
            if self._act and await self._leases.late_bill(rented) is not None:
                plan = dataclasses.replace(plan, done="booked", charge=bill.amount)
            found.append(dataclasses.replace(plan, ended=True))
        return found

    def _finding(self, rented: Rented, action: str, why: str) -> Finding:
        charged = leases.charge(self._ledger, rented.id)
        return Finding(
            rented.provider, rented.intent.name, rented.id, action, why,
            charge=charged[0] if charged else None,
        )  # fmt: skip


def _job_of(ledger: Ledger, rented: Rented) -> Job | None:
    """The unfinished job that the lease is for."""
    if rented.purpose is not Purpose.JOB or rented.state not in ("intended", "open"):
        return None
    return next((j for j in jobs.unfinished(ledger) if j.intent_id == rented.id), None)
