"""Which providers are set up. Guarantee: a realm holds only providers of that realm.

This machine is always there. In the real realm the others are there with or without a key: without one they
are named as unfit, so that a person sees what could be had. In the sandbox realm only those are there whose
sandbox is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.core.errors import SettingsError
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.keys import Access, KaggleKey
from accel.providers.base import Provider
from accel.providers.local import LocalProvider
from accel.worker.engine import Worker

# A sandbox scales its waits down to these; cold: the model's load in a fresh process is not scaled.
SANDBOX_WAIT_S, SANDBOX_COLD_S = 1.0, 8.0


@dataclass(frozen=True, slots=True)
class Site:
    """What every adapter is given: the realm, the clock, the terms that the person accepted.

    taken: ids of a provider's exclusive offers that a lease of this home has: not to be offered again.
    """

    realm: Realm
    runtime: Runtime
    accepted: Sequence[str]
    taken: Callable[[str], frozenset[str]]


def roster(
    realm: Realm, worker: Worker, folder: Path, runtime: Runtime, *, access: Mapping[str, Access],
    accepted: Sequence[str] = (), taken: Callable[[str], frozenset[str]] = lambda name: frozenset(),
) -> list[Provider]:  # fmt: skip
    """This machine and the adapters of one realm.

    access: by provider. taken: see ``Site``, and ``ledger.leases.taken``. Raises SettingsError for a
    sandbox's URL outside of the sandbox realm, or none in it.
    """
    for name, how in access.items():
        if bool(how.endpoint) != (realm is Realm.SANDBOX):
            raise SettingsError(f"{name}: a sandbox endpoint belongs to the sandbox realm, not to {realm}.")
    site = Site(realm, runtime, accepted, taken)
    made = [ADAPTERS[name](site, how) for name, how in access.items() if name in ADAPTERS]
    return [LocalProvider(realm, worker, folder / "local", runtime), *made]


def _kaggle(site: Site, how: Access) -> Provider:
    from accel.providers.kaggle import COLD_PRIOR_S, WAIT_PRIOR_S, KaggleProvider
    from accel.providers.kaggle_client import KaggleCredentials

    key = how.key if isinstance(how.key, KaggleKey) else KaggleKey()
    wait_s, cold_s = (SANDBOX_WAIT_S, SANDBOX_COLD_S) if how.endpoint else (WAIT_PRIOR_S, COLD_PRIOR_S)
    return KaggleProvider(
        realm=site.realm, runtime=site.runtime, accepted_terms=site.accepted, endpoint=how.endpoint or None,
        credentials=KaggleCredentials(key.username, key.key.get_secret_value(), key.token.get_secret_value()),
        wait_s=wait_s, cold_s=cold_s,
    )  # fmt: skip


ADAPTERS: dict[str, Callable[[Site, Access], Provider]] = {"kaggle": _kaggle}
