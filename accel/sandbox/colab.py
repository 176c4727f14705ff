"""The sandbox Colab as a whole. Guarantee: when the context ends, nothing of it runs on.

    with ColabSandbox() as sandbox:
        ColabProvider(endpoint=sandbox.url, ...)
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from accel.core.errors import UsageError
from accel.sandbox.cloud import SandboxCloud
from accel.sandbox.colab_runtimes import Runtimes
from accel.sandbox.colab_wire import Account, ColabApp
from accel.sandbox.serving import Server

COLD_S = 30.0  # nominal: Google publishes none; a round number, not a measurement
TOKEN_S = 3600.0  # "a short-lived credential": about an hour, by the users of the command line


class ColabSandbox(SandboxCloud[ColabApp]):
    """A Colab on loopback, in a thread, for as long as the ``with`` block lasts.

    root: folder that keeps its sign-in and, while it runs, the runtimes' files; None: a temporary one. port:
    0 takes a free one. key: an access token that does not end; "" keeps that of ``root``, or makes one. tier:
    FREE, PRO, PRO_PLUS, or "" for one that is not told. balance: compute units; None: not told. time_scale:
    the making of a runtime and its token last 1/time_scale of their nominal cold_s and token_s. expires_s:
    real seconds of an access token that was fetched. eager: see ``Runtimes``. now: epoch seconds. Raises
    UsageError for a port that is taken.
    """

    title, slug = "Colab", "colab"

    def __init__(
        self, root: Path | None = None, *, port: int = 0, key: str = "", tier: str = "FREE",
        balance: float | None = 0.0, time_scale: float = 60.0, cold_s: float = COLD_S,
        token_s: float | None = None, expires_s: float = 3599.0, eager: bool = True,
        faults: Iterable[Mapping[str, Any]] = (), now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        super().__init__(root, port=port, time_scale=time_scale, faults=faults)
        if tier not in ("", "FREE", "PRO", "PRO_PLUS"):
            raise UsageError(f"there is no tier {tier!r}.", hint="There are: FREE, PRO, PRO_PLUS.")
        self.key = key
        self.client_id = self.client_secret = self.refresh_token = ""
        self._tier, self._balance, self._now = tier, balance, now
        self._cold_s, self._expires_s, self._eager = cold_s, expires_s, eager
        # Unless a test is about tokens, theirs are not scaled: a job here takes as long as it takes.
        self._token_s = TOKEN_S * time_scale if token_s is None else token_s

    def _open(self, root: Path, server: Server) -> ColabApp:
        self._sign_in(root / "account.json")
        account = Account(
            self._tier, self._balance, {self.key: None}, self.client_id, self.client_secret,
            self.refresh_token,
        )  # fmt: skip
        return ColabApp(
            self._make, account, self._faults, address=server.url.removeprefix("http://"),
            expires_s=self._expires_s,
        )  # fmt: skip

    def _make(self) -> Runtimes:
        assert self.root is not None
        return Runtimes(
            self.root, time_scale=self.time_scale, cold_s=self._cold_s, token_s=self._token_s, now=self._now,
            eager=self._eager,
        )  # fmt: skip

    def _sign_in(self, file: Path) -> None:
        """Read, or make, what opens this account. Only its owner reads the file."""
        kept = json.loads(file.read_text()) if file.exists() else {}
        self.key = self.key or kept.get("key") or f"ya29.{secrets.token_hex(32)}"
        self.client_id = kept.get("client_id") or f"{secrets.token_hex(6)}.apps.googleusercontent.com"
        self.client_secret = kept.get("client_secret") or f"GOCSPX-{secrets.token_hex(14)}"
        self.refresh_token = kept.get("refresh_token") or f"1//{secrets.token_hex(30)}"
        file.touch(mode=0o600)
        file.write_text(json.dumps(self.authorised_user() | {"key": self.key}))

    def authorised_user(self) -> dict[str, str]:
        """The JSON of an authorised user, as gcloud and Google's command line for Colab keep it."""
        return {"type": "authorized_user", "client_id": self.client_id, "client_secret": self.client_secret,
                "refresh_token": self.refresh_token}  # fmt: skip

    # --- what it knows

    def things(self) -> list[str]:
        """Ids of the runtimes, also of those in the making."""
        return self._on_loop(lambda: [vm.id for vm in self.app.runtimes.all()])

    def content(self, ident: str) -> Path:
        """The folder that is a runtime's /content."""
        return self.app.runtimes.content(ident)

    def log(self, ident: str) -> str:
        """What a runtime's Jupyter server has printed."""
        return self.app.runtimes.log(ident)

    def describe(self) -> dict[str, Any]:
        """How to point a client here. The key opens this sandbox and nothing else."""
        return super().describe() | {
            "key": self.key, "authorised_user": self.authorised_user(),
            "accel": {"provider": "colab", "realm": "sandbox", "endpoint": self.url},
        }  # fmt: skip

    # --- what happens to it

    def set_account(self, tier: str | None = None, balance: float | None = -1.0) -> None:
        """Another tier, another balance from now on; what is not given stays."""
        self.app.account.tier = self.app.account.tier if tier is None else tier
        self.app.account.balance = self.app.account.balance if balance == -1.0 else balance

    def set_cold(self, cold_s: float) -> None:
        """Nominal seconds of the making of a runtime from now on."""
        self.app.runtimes.cold_s = cold_s

    def revoke(self, revoked: bool = True) -> None:
        """The person withdraws what they signed in with; no token is taken any more."""
        self.app.account.revoked = revoked

    def reclaim(self, ident: str) -> None:
        """Take a runtime away in the middle, without a word; returns when it is gone."""
        self._soon(self.app.runtimes.end(ident))

    def expire(self, ident: str) -> None:
        """The proxy token of a runtime ends now; the API gives out another."""

        def change() -> None:
            vm = self.app.runtimes.ordered(ident)
            assert vm is not None, f"no runtime {ident}"
            vm.token, vm.expires_at = "", 0.0

        self._on_loop(change)

    def reset(self) -> None:
        """Start afresh: every runtime is ended, and orders, faults, requests and the account's changes are
        forgotten."""

        async def forget() -> None:
            await self.app.runtimes.close()
            self.app.forget()
            self._faults.set([])
            self.app.wire.clear()
            account = self.app.account
            account.tier, account.balance, account.revoked = self._tier, self._balance, False
            self.app.runtimes.cold_s = self._cold_s

        self._soon(forget())
