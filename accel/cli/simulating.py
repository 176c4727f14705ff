"""``accel simulate``. Guarantee: a broken invariant is named, with the command to play it again; exit 1.

Realm ``simulated``: nothing is executed, and no figure of it says anything about a real provider.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict

from accel.cli import terminal
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.simulation import Simulated, campaign, simulate
from accel.simulation.campaign import struck

BROKEN = 1


def show_simulation(seed: int, requests: int, *, as_json: bool) -> None:
    """Simulate one seed and show what came of it."""
    command = f"accel simulate --seed {seed} --requests {requests}"
    with _interruptible(command), terminal.progress("simulating") as told:
        found = simulate(seed, requests, progress=told)
    if as_json:
        terminal.print_json({"realm": Realm.SIMULATED.value, **asdict(found)})
    else:
        _show(found)
    if found.violations:
        raise SystemExit(BROKEN)


def show_campaign(first: int, seeds: int, requests: int, processes: int | None, *, as_json: bool) -> None:
    """Simulate several seeds at once: a line for each, and a summary."""
    results: list[Simulated] = []
    out = terminal.console(stderr=as_json)
    with _interruptible(f"accel simulate --seeds {seeds} --requests {requests}"):
        for found in campaign(range(first, first + seeds), requests, processes):
            results.append(found)
            out.print(_line(found))
            for words in found.violations[:3]:
                out.print(f"  {words}")
    results.sort(key=lambda r: r.seed)
    broken = [r for r in results if r.violations]
    faults = struck(results)
    if as_json:
        terminal.print_json(
            {
                "realm": Realm.SIMULATED.value, "seeds": len(results), "requests": requests,
                "broken": [r.seed for r in broken], "faults": dict(faults),
                "runs": [asdict(r) for r in results],
            }
        )  # fmt: skip
    else:
        _faults(faults)
        out.print(
            f"{len(results)} seeds, {sum(r.requests for r in results):,} requests, "
            f"{sum(faults.values()):,} faults, {sum(r.lives - 1 for r in results)} routers killed: "
            + (f"{len(broken)} seeds broke an invariant." if broken else "every invariant held.")
        )
    for result in broken:
        _replay(result)
    if broken:
        raise SystemExit(BROKEN)


@contextlib.contextmanager
def _interruptible(command: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"accel: interrupted; a simulation keeps nothing, `{command}` begins anew.\n")
        raise SystemExit(130) from None


def _show(found: Simulated) -> None:
    out = terminal.console()
    charged, invoiced = (
        dollars(NanoUSD(n)) for n in (found.cost_nano_usd, found.invoiced_nano_usd)
    )
    rows = {
        "seed": f"{found.seed}, {found.requests:,} requests in {found.virtual_s:,.0f} virtual seconds",
        "answered": f"{found.success:.2%} of those whose router lived; {found.hits:,} by the cache alone",
        "by": _counts(found.answered_by),
        "calls": f"{found.attempts:,}; failed: {_counts(found.failures)}",
        "latency": f"p50 {found.p50_s:.3f} s, p95 {found.p95_s:.3f} s (virtual, of answers)",
        "routers": f"{found.lives} lives, {found.killed} requests died with one",
        "jobs": _counts(found.jobs),
        "money": f"{charged} in the ledger (estimated), {invoiced} on the invoices, at invented rates",
        "limits": f"{found.alerts} alerts" + (", the hard stop was met" if found.stopped else ""),
        "trace": found.trace_hash,
    }
    for name, value in rows.items():
        out.print(f"  {name:<10} {value}")
    _faults(found.faults)
    for words in found.violations:
        out.print(f"  broken: {words}")
    if found.violations:
        _replay(found)
    else:
        out.print("  every invariant held")
    out.print("realm simulated: nothing was executed.")


def _faults(faults: dict[str, int]) -> None:
    told = ", ".join(f"{name} {count}" for name, count in faults.items())
    terminal.console().print(f"  {'faults':<10} {sum(faults.values()):,}: {told}")


def _line(found: Simulated) -> str:
    state = "held" if not found.violations else "BROKEN " + ", ".join(map(str, found.broken))
    return (
        f"seed {found.seed:>4}  {found.success:7.2%} answered  {sum(found.faults.values()):>5} faults  "
        f"{found.lives - 1:>2} kills  {found.trace_hash[:8]}  {state}"
    )


def _replay(found: Simulated) -> None:
    terminal.say(f"replay: accel simulate --seed {found.seed} --requests {found.requests}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
