"""Which providers are set up. Guarantee: a realm holds only providers of that realm.

This machine is always there. In the real realm the others are there with or without a key: without one they
are named as unfit, so that a person sees what could be had. In the sandbox realm only those are there whose
sandbox is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accel import keys
from accel.core.errors import SettingsError
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.keys import Access, ApiKey, ColabKey, KaggleKey, ModalKey
from accel.providers.base import Provider
from accel.providers.local import LocalProvider
from accel.worker.engine import Worker

# A sandbox scales its waits down to these; cold: the model's load in a fresh process is not scaled.
SANDBOX_WAIT_S, SANDBOX_COLD_S = 1.0, 8.0
HOUR_S, SANDBOX_HOUR_S = 3600.0, 5.0  # of Modal's billing report


@dataclass(frozen=True, slots=True)
class Site:
    """What every adapter may be given.

    home: where the secret of our leases is kept. accepted: terms. taken: a provider's name → ids of offers
    that can be rented once, and are. blobs: an index's id → its folder here, or None. confirm: asks the
    person in front a yes-or-no question; None: there is nobody.
    """

    realm: Realm
    runtime: Runtime
    home: Path
    accepted: Sequence[str]
    taken: Callable[[str], frozenset[str]]
    blobs: Callable[[str], Path | None]
    confirm: Callable[[str], bool] | None = None


def roster(
    realm: Realm, worker: Worker, folder: Path, runtime: Runtime, *, access: Mapping[str, Access],
    accepted: Sequence[str] = (), taken: Callable[[str], frozenset[str]] = lambda _: frozenset(),
    confirm: Callable[[str], bool] | None = None,
) -> list[Provider]:  # fmt: skip
    """This machine and the adapters of one realm; see ``Site``. folder: where they may keep things.

    access: by provider. Raises SettingsError for a sandbox's URL outside of the sandbox realm, or none in it.
    """
    for name, how in access.items():
        if bool(how.endpoint) != (realm is Realm.SANDBOX):
            raise SettingsError(f"{name}: a sandbox endpoint belongs to the sandbox realm, not to {realm}.")
    site = Site(realm, runtime, folder, accepted, taken, worker.folder, confirm)
    made = [ADAPTERS[name](site, how) for name, how in access.items()]
    return [LocalProvider(realm, worker, folder / "local", runtime), *made]


def _kaggle(site: Site, how: Access) -> Provider:
    from accel.providers.kaggle import COLD_PRIOR_S, WAIT_PRIOR_S, KaggleProvider
    from accel.providers.kaggle_client import KaggleCredentials

    key = how.key if isinstance(how.key, KaggleKey) else KaggleKey()
    wait_s, cold_s = (SANDBOX_WAIT_S, SANDBOX_COLD_S) if how.endpoint else (WAIT_PRIOR_S, COLD_PRIOR_S)
    return KaggleProvider(
        realm=site.realm, runtime=site.runtime, accepted_terms=site.accepted, endpoint=how.endpoint or None,
        credentials=KaggleCredentials(key.username, key.key.get_secret_value(), key.token.get_secret_value()),
        wait_s=wait_s, cold_s=cold_s, folder=site.home / "kaggle-uploads",
    )  # fmt: skip


def _runpod(site: Site, how: Access) -> Provider:
    from accel.providers.runpod import COLD_PRIOR_S, RunPodProvider
    from accel.providers.runpod_calls import Credentials

    return RunPodProvider(
        realm=site.realm, runtime=site.runtime, accepted_terms=site.accepted, endpoint=how.endpoint or None,
        credentials=Credentials(_plain(how)), token=partial(keys.lease_token, site.home), blobs=site.blobs,
        cold_s=SANDBOX_COLD_S if how.endpoint else COLD_PRIOR_S, poll_s=0.1 if how.endpoint else 1.0,
    )  # fmt: skip


def _vast(site: Site, how: Access) -> Provider:
    from accel.providers.vast import VastProvider

    return VastProvider(
        realm=site.realm, runtime=site.runtime, accepted_terms=site.accepted, endpoint=how.endpoint or None,
        key=_plain(how), token=partial(keys.lease_token, site.home), blobs=site.blobs,
        certificate=partial(keys.lease_certificate, site.home), taken=partial(site.taken, "vast"),
        cold_s=SANDBOX_COLD_S if how.endpoint else None,
    )  # fmt: skip


def _modal(site: Site, how: Access) -> Provider:
    from accel.providers.modal import COLD_PRIOR_S, WAIT_PRIOR_S, ModalProvider
    from accel.providers.modal_client import ModalCredentials

    key, credentials = how.key, ModalCredentials()
    if isinstance(key, ModalKey):
        credentials = ModalCredentials(key.token_id, key.token_secret.get_secret_value())
    wait_s, cold_s = (SANDBOX_WAIT_S, SANDBOX_COLD_S) if how.endpoint else (WAIT_PRIOR_S, COLD_PRIOR_S)
    return ModalProvider(
        realm=site.realm, runtime=site.runtime, accepted_terms=site.accepted, endpoint=how.endpoint or None,
        credentials=credentials, blobs=site.blobs, wait_s=wait_s, cold_s=cold_s,
        billing_interval_s=SANDBOX_HOUR_S if how.endpoint else HOUR_S,
    )  # fmt: skip


def _colab(site: Site, how: Access) -> Provider:
    from accel.providers.colab import COLD_PRIOR_S, ColabProvider
    from accel.providers.colab_auth import ColabCredentials

    key = how.key if isinstance(how.key, ColabKey) else ColabKey()
    if key.cli and not how.endpoint:
        from accel.providers.colab_cli import ColabCliProvider

        return ColabCliProvider(
            program=[key.cli], config=site.home / "colab-sessions.json", runtime=site.runtime,
            realm=site.realm, accepted_terms=site.accepted, confirm=site.confirm,
        )  # fmt: skip
    return ColabProvider(
        realm=site.realm, runtime=site.runtime, accepted_terms=site.accepted, endpoint=how.endpoint or None,
        credentials=ColabCredentials(
            key.token.get_secret_value(), key.refresh_token.get_secret_value(), key.client_id,
            key.client_secret.get_secret_value(),
        ),
        confirm=site.confirm, cold_s=SANDBOX_COLD_S if how.endpoint else COLD_PRIOR_S,
    )  # fmt: skip


def _plain(how: Access) -> str:
    return how.key.key.get_secret_value() if isinstance(how.key, ApiKey) else ""


ADAPTERS: dict[str, Callable[[Site, Access], Provider]] = {
    "kaggle": _kaggle, "runpod": _runpod, "vast": _vast, "modal": _modal, "colab": _colab,
}  # fmt: skip
