"""Signing in to Google for Colab. Guarantee: one credential, which no text of ours ever holds.

Either an access token (it lasts an hour, and cannot be renewed by us) or the refresh token of an "authorised
user", as ``gcloud auth application-default login`` and Google's command line for Colab keep them
(google-auth 2.63.0, google/oauth2/credentials.py:381-462). An access token is fetched when there is none that
lasts another minute: ``POST /token`` with grant_type=refresh_token (google/oauth2/_client.py:465-531;
credentials.py:54: always https://oauth2.googleapis.com/token, whatever a file says). The scope that the API
asks for is https://www.googleapis.com/auth/colaboratory (discovery document colaboratory v1beta, 20261104).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accel.core.errors import ProviderError, Rejected, Unauthorised, Unreachable
from accel.providers.transport import Transport

NAME = "colab"
SCOPE = "https://www.googleapis.com/auth/colaboratory"
GOOGLE = "https://oauth2.googleapis.com"
MARGIN = timedelta(seconds=60)
HINT = ("Sign in again: gcloud auth application-default login "
        f"--scopes=openid,https://www.googleapis.com/auth/cloud-platform,{SCOPE}")  # fmt: skip
HOUR_HINT = "An access token lasts an hour: set a new one, or the file of an authorised user."


@dataclass(frozen=True, slots=True)
class ColabCredentials:
    """An access token, or what it is fetched with. None of them is ever shown by ``repr``."""

    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    client_id: str = field(default="", repr=False)
    client_secret: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.access_token or self.refresh_token)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be struck out of every text."""
        return tuple(filter(None, (self.access_token, self.refresh_token, self.client_secret)))


class Bearer:
    """The access token of now. base: Google's token service, or a sandbox. To be closed."""

    def __init__(
        self, credentials: ColabCredentials, now: Callable[[], datetime], base: str, timeout_s: float
    ) -> None:
        self._credentials, self._now = credentials, now
        self._transport = Transport(
            base, provider=NAME, timeout_s=timeout_s, secrets=credentials.secrets, classify=None
        )
        self._token, self._until = credentials.access_token, None if credentials.access_token else now()

    @property
    def hint(self) -> str:
        """What to do when it is not taken."""
        return HINT if self._credentials.refresh_token else HOUR_HINT

    async def token(self) -> str:
        """The access token; one request when a new one must be fetched. Raises Unauthorised for a refresh
        token that is not taken any more."""
        if self._until is None or self._now() < self._until - MARGIN:
            return self._token
        asked = self._now()
        form = {
            "grant_type": "refresh_token", "client_id": self._credentials.client_id,
            "client_secret": self._credentials.client_secret,
            "refresh_token": self._credentials.refresh_token,
        }  # fmt: skip
        try:
            answer = await self._transport.request("POST", "/token", content=_form(form), headers=_FORM)
            told = answer.mapping()
            token, seconds = str(told["access_token"]), float(told["expires_in"])
        except Rejected as refused:  # 400 invalid_grant: withdrawn, or unused for too long
            words = str(refused).removeprefix(f"{NAME}: ")
            raise Unauthorised(f"Google does not take this sign-in any more ({words.rstrip('.')}).",
                               provider=NAME, hint=HINT) from None  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise Unreachable("Google's token cannot be read.", provider=NAME) from None
        self._token, self._until = token, asked + timedelta(seconds=seconds)
        return token

    def forget(self) -> None:
        """The token was refused: the next call fetches another, where that can be done."""
        if self._credentials.refresh_token:
            self._until = self._now()

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._transport.aclose()


_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def _form(fields: dict[str, str]) -> bytes:
    from urllib.parse import urlencode

    return urlencode(fields).encode()


def with_hint(error: ProviderError, hint: str) -> ProviderError:
    """The same error, saying what to do."""
    return Unauthorised(error.message.removeprefix(f"{NAME}: "), provider=NAME, hint=hint)
