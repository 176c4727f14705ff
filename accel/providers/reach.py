"""Where an adapter may call. Guarantee: in the sandbox realm nowhere but to this machine."""

from __future__ import annotations

from urllib.parse import urlsplit

from accel.core.errors import SettingsError
from accel.core.offer import Realm

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_endpoint(title: str, realm: Realm, endpoint: str | None) -> None:
    """Raises SettingsError unless ``endpoint`` is a loopback URL in the sandbox, or None in the real realm.

    title: the provider's, for the message.
    """
    if (realm is Realm.SANDBOX) != (endpoint is not None) or realm is Realm.SIMULATED:
        raise SettingsError(f"{title}: realm {realm} does not go with endpoint {endpoint}.")
    if endpoint is not None and urlsplit(endpoint).hostname not in LOOPBACK:
        raise SettingsError(f"{title}: a sandbox is on this machine; its endpoint is not.")
