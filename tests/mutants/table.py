"""The mutants: one change of the code each, the promise that it breaks, and what must notice.

An invariant of the simulation notices within 20 seeds, or a test of ``make test`` fails. The old text occurs
exactly once in its file; a test holds the table to that.
"""

from __future__ import annotations

from dataclasses import dataclass

# the promises of DESIGN, in short
PROMISES = {
    1: "Nothing leaks",
    2: "No overspend",
    3: "Every request ends once",
    4: "A cache hit is bit-identical",
    5: "Secrets stay home",
    6: "Every figure says how it was made",
    7: "The same seed gives the same run",
    8: "Every wire fact cites its evidence",
}
SIMULATION = "tests/simulation/test_campaign.py::test_twenty_seeds_hold_every_invariant"
SAME = "tests/simulation/test_run.py::test_the_same_seed_gives_the_same_run_in_another_process"


@dataclass(frozen=True, slots=True)
class Mutant:
    """old becomes new in file. breaks: in words. invariant: of the simulation, 0 where a test notices."""

    name: str
    promise: int
    file: str
    old: str
    new: str
    breaks: str
    invariant: int = 0
    test: str = SIMULATION
    requests: int = 600


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "late", 3, "accel/routing/cascade.py",
        "        return share_s, share_s >= tail_s(scored.estimate) + self._health.ahead_s(scored.offer.provider)\n",
        "        return share_s + 60.0, share_s >= tail_s(scored.estimate)\n",
        "a try may run a minute past the deadline", 1,
    ),
    Mutant(
        "unbooked-end", 3, "accel/fleet/journal.py",
        "            if entry.request:\n                requests.record(",
        "            if entry.request and entry.ended:\n                requests.record(",
        "requests that the cache answered are not on record", 1,
    ),
    Mutant(
        "failed-is-free", 2, "accel/routing/tries.py",
        '        cost = getattr(error, "billed", None) or self._cost(one, used_s)\n',
        "        cost = Cost()\n",
        "failed calls that ran are booked as free", 2,
    ),
    Mutant(
        "hedge-is-free", 2, "accel/routing/tries.py",
        "        cost = late.cost if late else self._cost(one, used_s)\n",
        "        cost = late.cost if late else Cost()\n",
        "cancelled calls, lost hedges among them, are booked as free", 2, requests=1500,
    ),
    Mutant(
        "never-settled", 2, "accel/fleet/journal.py",
        "                if offer := entry.reserved.get(attempt.id):\n",
        "                if attempt.error and (offer := entry.reserved.get(attempt.id)):\n",
        "what an answered call had reserved stays held for ever", 2,
    ),
    Mutant(
        "orphans-stay", 2, "accel/ledger/budgets.py",
        "            lost = self._ledger.orphans()\n",
        "            lost = self._ledger.orphans()[:0]\n",
        "what a killed process had reserved stays held for ever", 2, requests=1500,
    ),
    Mutant(
        "reserves-little", 2, "accel/ledger/budgets.py",
        "        provider, amount = offer.provider, offer.rate.cost(seconds)\n",
        "        provider, amount = offer.provider, offer.rate.cost(seconds / 1e3)\n",
        "a thousandth of the worst case is reserved", 3,
    ),
    Mutant(
        "silent", 2, "accel/ledger/budgets.py",
        "                if account.used >= share * limit:\n",
        "                if account.used >= share * limit * 2:\n",
        "alerts of a limit come too late, or never", 3, requests=1500,
    ),
    Mutant(
        "quota-unreserved", 2, "accel/ledger/budgets.py",
        "            self._reserve_quota(hold_id, offer, seconds, task_id)\n",
        "            pass\n",
        "free hours are drawn on without being reserved", 4, requests=1500,
    ),
    Mutant(
        "no-last-resort", 3, "accel/routing/turns.py",
        "        chosen = self._untried_local() if last else None\n",
        "        chosen = None\n",
        "the last try is not kept for this machine", 5,
    ),
    Mutant(
        "lost-attempts", 3, "accel/routing/tries.py",
        "        self.done.append(attempt)\n        self._books.close(attempt)\n",
        "        if not attempt.hedge:\n            self.done.append(attempt)\n        self._books.close(attempt)\n",
        "hedges are missing from the error's list", 5, requests=3000,
    ),
    Mutant(
        "open-for-all", 3, "accel/routing/breaker.py",
        "        if many or self._weight >= CONSECUTIVE:\n",
        "        if many and self._weight >= 100 * CONSECUTIVE:\n",
        "a breaker does not open", 6,
    ),
    Mutant(
        "crowd-of-probes", 3, "accel/routing/breaker.py",
        "PROBE_S) if self._probing else None\n",
        "PROBE_S) if False else None\n",
        "a half-open breaker lets everybody through", 6, requests=1500,
    ),
    Mutant(
        "never-again", 3, "accel/routing/breaker.py",
        "        self._until = now + longest * self._random.uniform(1 - JITTER, 1 + JITTER)\n",
        "        self._until = now + 100 * longest * self._random.uniform(1 - JITTER, 1 + JITTER)\n",
        "a breaker stays open for an hour", 7, requests=3000,
    ),
    Mutant(
        "stubborn", 3, "accel/routing/cascade.py",
        "MAX_ATTEMPTS = 3\n",
        "MAX_ATTEMPTS = 9\n",
        "nine calls for a request", 8,
    ),
    Mutant(
        "impatient", 3, "accel/routing/health.py",
        "            place.paused_until = max(place.paused_until, now + min(asked_s, LONGEST_PAUSE_S))\n",
        "            pass\n",
        "Retry-After is not kept to", 8, requests=1500,
    ),
    Mutant(
        "another-prompt", 4, "accel/cache/items.py",
        "        return [cache_key(task.spec, text) for text in unpack_texts(request.tensors)]\n",
        '        return [cache_key(replace(task.spec, prompt=""), text) for text in unpack_texts(request.tensors)]\n',
        "the prompt is not in the key", 9,
    ),
    Mutant(
        "unchecked-bytes", 4, "accel/wire/envelope.py",
        "        if envelope.digest() != digest:\n",
        "        if not digest:\n",
        "an entry is not checked against its digest", 9, requests=3000,
    ),
    Mutant(
        "mixed-up", 4, "accel/cache/items.py",
        "    rows = [found[key].tensors[\"vector\"] for key in keys]\n",
        "    rows = [found[key].tensors[\"vector\"] for key in sorted(keys)]\n",
        "cached and computed rows change places", 9,
    ),
    Mutant(
        "another-revision", 4, "accel/cache/items.py",
        "        return [cache_key(task.spec, text) for text in unpack_texts(request.tensors)]\n",
        '        return [cache_key(replace(task.spec, revision=""), text) for text in unpack_texts(request.tensors)]\n',
        "the revision is not in the key", 10,
    ),
    Mutant(
        "kept-running", 1, "accel/fleet/leases.py",
        "        state, note = await self._release(intent, lease)\n",
        '        state, note = "released", "surely"\n',
        "a rented thing is never given back", 11, requests=2000,
    ),
    Mutant(
        "forgotten", 1, "accel/fleet/leases.py",
        "        lease = None if fresh else await self._found(provider, intent)\n        if lease is None:\n",
        "        lease = None\n        if lease is None:\n",
        "what was created before a crash is not looked for", 0,
        "tests/fleet/test_crash.py::test_a_killed_kaggle_job_is_carried_on_and_pushed_once",
    ),
    Mutant(
        "bought-twice", 1, "accel/ledger/leases.py",
        "    if claim := claim_of(offer):\n", "    if (claim := claim_of(offer)) and not claim:\n",
        "two processes buy one machine", 0,
        "tests/ledger/test_leases.py::test_an_exclusive_offer_has_one_lease_until_its_end_is_known",
    ),
    Mutant(
        "launched-for-ever", 1, "accel/ledger/leases.py",
        "    if offer.billing is Billing.SECONDS and launched(ledger, now - HOUR) >= launches:\n",
        "    if offer.billing is Billing.SECONDS and launched(ledger, now) >= launches:\n",
        "the launches of an hour are not counted", 0,
        "tests/ledger/test_leases.py::test_launches_of_an_hour_are_counted_whatever_became_of_them",
    ),
    Mutant(
        "not-alone", 1, "accel/ledger/leases.py",
        "        if found is None or _lives(ledger, found[0]) or (not gone and in_use(ledger, intent_id)):\n",
        "        if found is None:\n", "a replica is ended while another process uses it", 0,
        "tests/fleet/test_replicas.py::test_a_second_process_adopts_it_and_the_last_one_gives_it_back",
    ),
    Mutant(
        "unknown-is-none", 1, "accel/fleet/leases.py",
        "            if lease is None and not absent:\n", "            if lease is None and absent is None:\n",
        "what nobody can tell of counts as never made, and costs nothing", 0,
        "tests/fleet/test_reap.py::test_whether_it_was_made_is_asked_until_it_is_known",
    ),
    Mutant(
        "billed-twice", 2, "accel/ledger/store.py",
        "                \"WHERE hold_id = ? AND basis = 'estimated' AND fund <> 'quota'\", (hold_id,),\n",
        "                \"WHERE hold_id = ? AND fund <> 'quota'\", (hold_id,),\n",
        "a bill is booked again, and another one in its place", 0,
        "tests/ledger/test_leases.py::test_a_bill_takes_the_place_of_an_estimate_once",
    ),
    Mutant(
        "shared-by-nobody", 2, "accel/fleet/replica.py",
        "            self.shared_s += max(0.0, now - self.counted) / self.in_flight\n",
        "            self.shared_s += max(0.0, now - self.counted)\n",
        "calls at the same time each count every second of a replica", 0,
        "tests/fleet/test_replicas.py::test_shares_and_idle_are_the_charge",
    ),
    Mutant(
        "paid-first", 2, "accel/routing/policy.py",
        "        c.key = (c.lateness is Lateness.COLD, c.place, c.lateness, away, not c.gratis, c.score)\n",
        "        c.key = (c.lateness is Lateness.COLD, c.place, c.lateness, away, c.gratis, c.score)\n",
        "what costs money goes before what is free", 12,
    ),
    Mutant(
        "unfit", 3, "accel/routing/fitness.py",
        "    if need.numerics not in offer.numerics:\n",
        "    if need.numerics is None:\n",
        "work goes where it cannot be done in its numerics", 12, requests=1500,
    ),
    Mutant(
        "other-chance", 7, "accel/gpu_accelerator.py",
        "        self.health = Health(random.Random(runtime.random.random()))\n",
        "        self.health = Health(random.Random())\n",
        "the router's chance does not come from the seed", 12, SAME, 1500,
    ),
    Mutant(
        "leaky-environment", 5, "accel/environment.py",
        'if not any(s in k.upper() for s in secretive)}\n',
        'if not any(s == k.upper() for s in secretive)}\n',
        "keys reach the environment of a job", 0, "tests/providers/test_local.py::test_no_key_reaches_a_job",
    ),
    Mutant(
        "no-provenance", 6, "accel/core/row.py",
        "        if not self.device or not self.packages or not self.commit:\n",
        "        if not self.device or not self.packages:\n", "a measurement without its commit counts", 0,
        "tests/experiments/test_rows.py::test_a_row_without_provenance_is_no_row",
    ),
    Mutant(
        "no-source", 8, "accel/providers/terms.py",
        '_KAGGLE = "https://www.kaggle.com/terms"\n', '_KAGGLE = ""\n',
        "a term is refused without the page it was read on", 0,
        "tests/providers/test_terms.py::test_rows_are_unique_and_say_where_they_were_read",
    ),
)  # fmt: skip
