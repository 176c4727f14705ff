"""The smallest real job at one provider. Guarantee: it spends at most its limit, and says what is left there.

What a person with a key runs once, to see that an adapter and the real provider agree; the same steps against
a sandbox are in the conformance checks, so that it is not this that fails on the day.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accel.core.errors import UsageError
from accel.core.lease import Lease, Unknown
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.fleet.jobs import Finished
from accel.fleet.leases import Patience
from accel.keys import Access
from accel.session import Session, open_session

PASSAGES = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """finished: the verified job. left: what the provider still lists of ours, or that it cannot tell.

    spent: nano-dollars in the ledger.
    """

    finished: Finished
    left: tuple[Lease, ...] | Unknown
    spent: NanoUSD


def smallest_job(
    provider: str, access: Access, realm: Realm, limit: NanoUSD, home: Path, patience: Patience = Patience()  # noqa: B008
) -> Outcome:
    """Embed ``PASSAGES`` texts at ``provider`` and nowhere else, and look what is left.

    limit: nano-dollars that may be spent in all, above 0. Raises UsageError without one, EveryAttemptFailed
    when the provider did not do it.
    """
    if limit <= 0:
        raise UsageError("an explicit spending limit is needed.", hint="Set ACCEL_LIVE_LIMIT, in dollars.")
    from accel.experiments.embed_benchmark import benchmark_texts, prepare
    from accel.stages.embed import default_spec

    with _budget(limit), open_session(
        realm, asked=(provider,), home=home, access={provider: access}, patience=patience
    ) as session:
        task, bundle = prepare(
            benchmark_texts(PASSAGES), default_spec(), batch_sizes=(1,), repetitions=1, only=(provider,),
            runtime=session.accelerator.runtime, lifetime_s=patience.lifetime_s,
        )  # fmt: skip
        finished = session.push(task, bundle)
        return Outcome(finished, _left(session, provider), _spent(session))


@contextmanager
def _budget(limit: NanoUSD) -> Iterator[None]:
    """The limit as the settings have it, for the time of the block."""
    name = "ACCEL_BUDGET__MONTH"
    before = os.environ.get(name)
    os.environ[name] = dollars(limit).lstrip("$").replace(",", "")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _left(session: Session, provider: str) -> tuple[Lease, ...] | Unknown:
    adapter = session.accelerator.board.providers[provider]
    return session.call(adapter.leases)


def _spent(session: Session) -> NanoUSD:
    ledger = session.accelerator.ledger
    return NanoUSD(ledger.rows("SELECT coalesce(sum(amount), 0) FROM charge WHERE fund <> 'quota'")[0][0])
