"""Which providers are set up. Guarantee: a realm holds only providers of that realm.

This machine is always there. Kaggle is there when a key for it is; with no key it is named as unfit, so
that a person sees what could be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.core.errors import SettingsError
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.keys import KaggleKey
from accel.providers.base import Provider
from accel.providers.kaggle import COLD_PRIOR_S, WAIT_PRIOR_S, KaggleProvider
from accel.providers.kaggle_client import KaggleCredentials
from accel.providers.local import LocalProvider
from accel.worker.engine import Worker

SANDBOX_WAIT_S, SANDBOX_COLD_S = 1.0, 8.0  # cold: the model's load in a fresh process is not scaled


def roster(
    realm: Realm, worker: Worker, folder: Path, runtime: Runtime, *, kaggle: KaggleKey | None,
    kaggle_endpoint: str = "", accepted: Sequence[str] = (),
) -> list[Provider]:  # fmt: skip
    """The adapters of one realm.

    kaggle_endpoint: a sandbox's URL; there must be one in the sandbox realm, and none in the real one.
    """
    if bool(kaggle_endpoint) != (realm is Realm.SANDBOX):
        raise SettingsError(f"a sandbox endpoint belongs to the sandbox realm, not to {realm}.")
    # a sandbox scales its waits down to these; the adapter's own priors are the real Kaggle's
    wait_s, cold_s = (
        (SANDBOX_WAIT_S, SANDBOX_COLD_S) if kaggle_endpoint else (WAIT_PRIOR_S, COLD_PRIOR_S)
    )
    key = kaggle or KaggleKey()
    credentials = KaggleCredentials(
        key.username, key.key.get_secret_value(), key.token.get_secret_value()
    )
    return [
        LocalProvider(realm, worker, folder / "local", runtime),
        KaggleProvider(
            realm=realm, credentials=credentials, runtime=runtime, accepted_terms=accepted,
            endpoint=kaggle_endpoint or None, wait_s=wait_s, cold_s=cold_s,
        ),
    ]  # fmt: skip
