"""The guide's three troubles, found in a ledger. Guarantee: every figure is counted, and nothing is changed.

"All GPU tasks fall back to this machine", "costs are above the budget", "questions take more than five
seconds": each is there, is not, or has not enough data. One that is there names its bottleneck (which stage,
which provider, and if waiting, cold starts, transfers, computing or failures took the time or the money) and
a command that mends it, from the errors, refusals and timings of the period.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import NamedTuple

from accel.core.money import NANO, NanoUSD, dollars
from accel.core.task import Stage
from accel.ledger import Ledger, costs
from accel.ledger.database import instant
from accel.monitoring.facts import WHOLE, read
from accel.monitoring.report import Report, report

LOCAL, CACHE = "local", "cache"
SLOW_S = 5.0        # the guide: "queries taking > 5 seconds consistently"
LEAST_REQUESTS = 5  # answered stages, below which nothing is said of where they went
LEAST_QUESTIONS = 3
OFFLOADED = (Stage.EMBED, Stage.SEARCH, Stage.RERANK)  # answers stay here by design
# What is no trouble: nobody asked for the provider, or its terms keep it out.
_EXPECTED = ("no key", "no credentials", "its terms", "not among", "does not serve")


@dataclass(frozen=True, slots=True)
class Remedy:
    """A command (or a line for the settings file), and what it does."""

    command: str
    why: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """One of the three. found: None where there is not enough data. n: what it rests on. symptom: what was
    counted. bottleneck: where it comes from, "" where nothing is wrong."""

    name: str
    found: bool | None
    n: int
    symptom: str
    bottleneck: str = ""
    remedies: tuple[Remedy, ...] = ()


class Try(NamedTuple):
    """One attempt: what it was for, how it ended, and its seconds by part. amount: nano-dollars."""

    task: str
    provider: str
    stage: str
    ok: bool
    error: str
    detail: str
    wait: float
    cold: float
    transfer: float
    compute: float
    amount: int

    @property
    def parts(self) -> dict[str, float]:
        """Where its seconds went; all of a failed one's are lost."""
        every = {"waiting": self.wait, "cold starts": self.cold, "transfers": self.transfer,
                 "computing": self.compute}  # fmt: skip
        return every if self.ok else {"failed tries": sum(every.values())}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the ledger holds of a period. refused: how often, by (provider, reason). spent: nano-dollars by
    (provider, stage), idle time among the stages."""

    counted: Report
    questions: tuple[tuple[str, float], ...]
    answered: Counter[tuple[str, str]]
    tries: tuple[Try, ...]
    refused: Counter[tuple[str, str]]
    spent: dict[tuple[str, str], int] = field(default_factory=dict)


def gather(ledger: Ledger, since: datetime, now: datetime) -> Evidence:
    """Read what ended in [since, now). Raises LedgerError."""
    span = (instant(since), instant(now + timedelta(microseconds=1)))
    facts = read(ledger, since, now + timedelta(microseconds=1), now)
    whole = [r for r in facts.requests if r.stage == WHOLE and r.outcome == "ok"]
    parts = [r for r in facts.requests if r.stage in OFFLOADED and r.outcome == "ok"]
    tries = ledger.rows(
        "SELECT task_id, provider, stage, outcome = 'ok', coalesce(json_extract(body, '$.error'), ''), "
        "coalesce(json_extract(body, '$.detail'), ''), json_extract(body, '$.timing.wait_s'), "
        "json_extract(body, '$.timing.cold_s'), json_extract(body, '$.timing.transfer_s'), "
        "json_extract(body, '$.timing.compute_s'), json_extract(body, '$.cost.amount') "
        "FROM attempt WHERE outcome <> 'cancelled' AND at >= ? AND at < ? ORDER BY rowid", *span,
    )  # fmt: skip
    refused: Counter[tuple[str, str]] = Counter()
    for (route,) in ledger.rows("SELECT route FROM decision WHERE at >= ? AND at < ?", *span):
        for one in json.loads(route)["refused"]:
            refused[one["provider"], one["reason"].split("; again in")[0]] += 1
    return Evidence(
        report(facts), tuple((r.id, r.seconds) for r in whole),
        Counter((r.stage, r.provider) for r in parts if r.provider not in ("", CACHE)),
        tuple(Try(*row) for row in tries), refused,
        {(x.provider, x.stage): x.total for x in costs.lines(ledger, span[0])},
    )  # fmt: skip


def diagnose(evidence: Evidence) -> tuple[Trouble, Trouble, Trouble]:
    """The three troubles, in the guide's order."""
    return falls_back(evidence), costs_too_much(evidence), is_slow(evidence)


def falls_back(e: Evidence) -> Trouble:
    """Everything is computed here, though other providers were tried or would have been."""
    name = "everything falls back to this machine"
    n, here = e.answered.total(), sum(k for (_, where), k in e.answered.items() if where == LOCAL)
    symptom = f"{here} of {n} stages that a GPU could do were done here"
    if n < LEAST_REQUESTS:
        return Trouble(name, None, n, f"{n} stages were done, and {LEAST_REQUESTS} are needed to judge")
    failed: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[tuple[str, str], str] = {}
    for t in e.tries:
        if t.provider != LOCAL and not t.ok:
            failed[t.provider][t.error or "failed"] += 1
            last[t.provider, t.error or "failed"] = t.detail
    kept_out: dict[str, Counter[str]] = defaultdict(Counter)
    for (provider, reason), k in e.refused.items():
        if provider != LOCAL:
            kept_out[provider][reason] += k
    hindered = {p: c for p, c in kept_out.items() if not all(_expected(reason) for reason in c)}
    if here < n:
        return Trouble(name, False, n, symptom)
    if not failed and not hindered:
        why = "no other provider is set up for it" if kept_out else "nowhere else would have been better"
        hint = (Remedy("accel setup kaggle", "free GPUs, for the batch lane"),) if kept_out else ()
        return Trouble(name, False, n, f"{symptom}; {why}", remedies=hint)
    told: list[str] = []
    ways: dict[str, Remedy] = {}
    for provider, errors in sorted(failed.items(), key=lambda i: -i[1].total()):
        error, k = errors.most_common(1)[0]
        detail = last[provider, error].removeprefix(f"{provider}: ").rstrip(".")
        told.append(f"{provider}: {errors.total()} tries failed, {k} of them {error} ({detail})")
        way = _mend(provider, error)
        ways.setdefault(way.command, way)
    for provider, reasons in sorted(hindered.items(), key=lambda i: -i[1].total()):
        reason, k = next((r, k) for r, k in reasons.most_common() if not _expected(r))
        told.append(f"{provider}: passed over {k} times ({reason})")
        if provider not in failed:
            way = _mend(provider, reason)
            ways.setdefault(way.command, way)
    return Trouble(name, True, n, symptom, "; ".join(told), tuple(ways.values()))


def _expected(reason: str) -> bool:
    return any(word in reason for word in _EXPECTED)


def _mend(provider: str, said: str) -> Remedy:
    """What to do about an error's class, or a refusal's words."""
    low = said.lower()
    if "unauthorised" in low or "key" in low or "401" in low:
        return Remedy(f"accel setup {provider}", "its key is refused: check it, or set another")
    if "overbudget" in low or "may still be spent" in low or "budget" in low or "limit" in low:
        return Remedy("accel cost", "a limit has no room: raise it under [budget], or wait for its end")
    if "quota" in low:
        return Remedy("accel offers --lane batch", "free hours are used up: it says until when")
    if "launches" in low:
        return Remedy("accel leases --all", "many machines were begun in an hour: see why they ended")
    if "capacity" in low or "taken" in low or "full" in low:
        return Remedy("accel offers", "it has nothing free: set up one more, so that there is a next")
    if "badoutput" in low or "jobfailed" in low:
        return Remedy("accel explain", "its answers did not validate: see what was sent where")
    return Remedy("accel doctor", "it cannot be reached, or does not answer: check network and provider")


def costs_too_much(e: Evidence) -> Trouble:
    """A limit is passed, is full, or will not last its period; or requests were refused for it."""
    name = "costs are above the budget"
    every = e.counted.spend.limits
    limits = [m for m in every if m.account.unit == "nano_usd" and m.account.wanted is not None]
    refusals = sum(t.error in ("OverBudget", "TooManyLaunches") for t in e.tries)
    refusals += sum(k for (_, reason), k in e.refused.items() if "may still be spent" in reason)
    n = e.counted.spend.settled.n
    if not limits:
        return Trouble(name, None, n, "no budget is set, and without one nothing is paid for")
    told, wrong = [], bool(refusals)
    for m in limits:
        a, wanted = m.account, m.account.wanted or 0
        line = f"{a.provider or 'all'}, {a.period}: {dollars(NanoUSD(a.used))} of {dollars(NanoUSD(wanted))}"
        if a.used + a.held > wanted or (a.used and a.used >= wanted):
            wrong = True
        elif m.projected is not None and m.projected > wanted and not m.warning:
            wrong = True
            line += f", {dollars(NanoUSD(m.projected))} at its end if it goes on like this"
        told.append(line)
    if refusals:
        told.append(f"{refusals} times something was not begun because a limit had no room")
    if not wrong:
        return Trouble(name, False, n, "; ".join(told))
    bottleneck, ways = _dearest(e)
    ways += (
        Remedy("accel precompute", "do the heavy part once, on free hours, in the batch lane"),
        Remedy("month = … under [budget] in your settings", "if it is worth it to you: raise the limit"),
    )
    return Trouble(name, True, n, "; ".join(told), bottleneck, ways)


def _dearest(e: Evidence) -> tuple[str, tuple[Remedy, ...]]:
    """Where most of the money went, and what of the time that it paid for."""
    if not any(e.spent.values()):
        return "nothing was charged in this time: the limit is too small for what was asked", ()
    total = sum(e.spent.values())
    (provider, stage), amount = max(e.spent.items(), key=lambda i: i[1])
    told = f"{stage} on {provider}: {dollars(NanoUSD(amount))}, {amount / total:.0%} of what was spent"
    if stage in (costs.IDLE, costs.LOST):
        return told, (Remedy("accel leases", "machines are rented and not used"),
                      Remedy("accel reap --yes", "ends what nobody works with"))  # fmt: skip
    parts: Counter[str] = Counter()
    for t in e.tries:
        if (t.provider, t.stage) == (provider, stage):
            parts.update({part: round(s * NANO) for part, s in t.parts.items()})
    ways: tuple[Remedy, ...] = (
        Remedy(f"{provider} = 2.0 under [priorities] in your settings", "makes the router avoid it"),
    )
    if parts.total():
        part, seconds = parts.most_common(1)[0]
        told += f"; {seconds / parts.total():.0%} of its seconds were {part}"
        if part != "computing":
            ways = (Remedy("accel offers", f"compare: who bills less for {part}"), *ways)
    return told, ways


def is_slow(e: Evidence) -> Trouble:
    """More than half of the questions took longer than ``SLOW_S``."""
    name = f"questions take more than {SLOW_S:.0f} s"
    n = len(e.questions)
    if n < LEAST_QUESTIONS:
        return Trouble(name, None, n, f"{n} questions, and {LEAST_QUESTIONS} are needed to judge")
    slow = {ident: seconds for ident, seconds in e.questions if seconds > SLOW_S}
    symptom = f"{len(slow)} of {n} questions; the median is {median(s for _, s in e.questions):.1f} s"
    if 2 * len(slow) <= n:
        return Trouble(name, False, n, symptom)
    where: Counter[tuple[str, str, str]] = Counter()
    for t in e.tries:
        if t.task.removesuffix(f"-{t.stage}") in slow:
            for part, seconds in t.parts.items():
                where[t.stage, t.provider, part] += round(seconds * NANO)
    total = sum(slow.values())
    rest = total - where.total() / NANO
    if not where or rest > where.most_common(1)[0][1] / NANO:
        told = f"{rest / total:.0%} of their time was in no attempt: reading, ranking, or this machine's load"
        ways: Sequence[Remedy] = (Remedy("accel monitor", "shows the load, and each stage's share"),)
    else:
        (stage, provider, part), seconds = where.most_common(1)[0]
        told = f"{stage} on {provider}: {part} took {seconds / NANO / total:.0%} of their time"
        ways = _quicker(stage, provider, part)
    return Trouble(name, True, n, symptom, told, tuple(ways))


def _quicker(stage: str, provider: str, part: str) -> tuple[Remedy, ...]:
    elsewhere = f'disabled = ["{provider}"] in your settings'
    match part:
        case "cold starts" if provider == LOCAL:
            return (Remedy("accel demo", "a process loads its model once: keep one running"),)
        case "cold starts":
            return (Remedy("accel query --provider local", f"{stage} here: a single query needs no GPU"),
                    Remedy(elsewhere, "or do not use what has to be woken up"))  # fmt: skip
        case "failed tries":
            return (Remedy("accel doctor", f"{provider} fails first, each time"),
                    Remedy(elsewhere, "until it is mended"))  # fmt: skip
        case "transfers":
            return (Remedy("accel query --provider local", "the way there takes longer than the work here"),)
        case "waiting":
            return (Remedy("accel offers --lane live", f"who has a shorter queue than {provider}"),)
        case _ if provider == LOCAL:
            if stage == Stage.EMBED:
                return (Remedy("accel precompute", "embed the corpus beforehand, on free GPUs"),)
            return (Remedy(f"accel offers --stage {stage} --lane live", "what a GPU would do in which time"),
                    Remedy("accel setup runpod", "one that serves live, by the second"))  # fmt: skip
        case _:
            return (Remedy(f"accel offers --stage {stage} --lane live", f"who is faster than {provider}"),)
