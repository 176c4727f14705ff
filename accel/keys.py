"""Keys. Guarantee: no secret is ever printed, logged, or part of an error.

A key comes from the variable that its provider's own tools use, from the secret store of Kaggle or Colab, or
from the ``[keys]`` table of the settings file, which only its owner may be able to read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from accel import environment
from accel.config import read_file
from accel.core.errors import SettingsError

KEY_NAMES = (
    "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "RUNPOD_API_KEY", "VASTAI_API_KEY",
    "VAST_API_KEY", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_API_KEY", "COLAB_API_KEY",
)  # fmt: skip

# kaggle.json has held 32 hexadecimal digits since there has been one
_LEGACY_KAGGLE_KEY = re.compile(r"[0-9a-f]{32}")


class KaggleKey(BaseModel):
    """A user name and key, or a token; "" where there is none."""

    model_config = ConfigDict(frozen=True)
    username: str = ""
    key: SecretStr = SecretStr("")
    token: SecretStr = SecretStr("")


class ApiKey(BaseModel):
    """One secret that is all a provider asks for: RunPod's, Vast.ai's."""

    model_config = ConfigDict(frozen=True)
    key: SecretStr


class ModalKey(BaseModel):
    """Modal's token id and secret."""

    model_config = ConfigDict(frozen=True)
    token_id: str
    token_secret: SecretStr


Key = KaggleKey | ApiKey | ModalKey


@dataclass(frozen=True, slots=True)
class Access:
    """How one provider is reached: its key, or None; and a sandbox's URL, "" for the provider itself."""

    key: Key | None = None
    endpoint: str = ""


def key(name: str) -> str:
    """One key by its variable's name, or "". Environment and secret stores win over the file."""
    if found := environment.secret(name):
        return found.strip()
    keys = read_file().get("keys", {})
    value = keys.get(name, "") if isinstance(keys, dict) else ""
    return value.strip() if isinstance(value, str) else ""


def kaggle_key(read: Callable[[str], str] = key) -> KaggleKey | None:
    """Kaggle's key from KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY; None if there is none.

    KAGGLE_API_TOKEN may also name a file, as Kaggle's own tools have it. KAGGLE_KEY alone may also hold a
    token, or the JSON of kaggle.json. Raises SettingsError when what is set cannot be a key.
    """
    if token := read("KAGGLE_API_TOKEN"):
        if token.startswith(("/", "~")):
            token = _read_token(Path(token).expanduser())
        return KaggleKey(token=_secret("KAGGLE_API_TOKEN", token))
    username, value = read("KAGGLE_USERNAME"), read("KAGGLE_KEY")
    if not value:
        return None
    if value.startswith("{"):
        try:
            parsed = json.loads(value)
            username, value = str(parsed["username"]), str(parsed["key"])
        except (ValueError, KeyError, TypeError):
            raise SettingsError(
                "KAGGLE_KEY looks like the JSON of kaggle.json, but has no username and key in it."
            ) from None
    if username:
        return KaggleKey(
            username=_secret("KAGGLE_USERNAME", username).get_secret_value(),
            key=_secret("KAGGLE_KEY", value),
        )
    if _LEGACY_KAGGLE_KEY.fullmatch(value):
        raise SettingsError("KAGGLE_KEY holds a key, which needs its user name.", hint="Set KAGGLE_USERNAME.")
    return KaggleKey(token=_secret("KAGGLE_KEY", value))


def modal_key(read: Callable[[str], str] = key) -> ModalKey | None:
    """Modal's key from MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or MODAL_API_KEY holding ``id:secret``."""
    ident, secret = read("MODAL_TOKEN_ID"), read("MODAL_TOKEN_SECRET")
    if not (ident and secret) and (joined := read("MODAL_API_KEY")):
        ident, _, secret = joined.partition(":")
        if not (ident and secret):
            raise SettingsError("MODAL_API_KEY must hold the token's id and secret as id:secret.")
    if not (ident and secret):
        return None
    return ModalKey(token_id=ident, token_secret=_secret("MODAL_TOKEN_SECRET", secret))


def runpod_key(read: Callable[[str], str] = key) -> ApiKey | None:
    """RunPod's key from RUNPOD_API_KEY (which its SDK reads from 2.0 on)."""
    value = read("RUNPOD_API_KEY")
    return ApiKey(key=_secret("RUNPOD_API_KEY", value)) if value else None


def vast_key(read: Callable[[str], str] = key) -> ApiKey | None:
    """Vast.ai's key from VAST_API_KEY, as its command line has it, or VASTAI_API_KEY."""
    for name in ("VAST_API_KEY", "VASTAI_API_KEY"):
        if value := read(name):
            return ApiKey(key=_secret(name, value))
    return None


READERS: dict[str, Callable[[], Key | None]] = {
    "kaggle": kaggle_key, "runpod": runpod_key, "vast": vast_key, "modal": modal_key,
}  # fmt: skip
# what to set for each
VARIABLES = {
    "kaggle": "KAGGLE_API_TOKEN (kaggle.com, Settings, API)", "runpod": "RUNPOD_API_KEY",
    "vast": "VAST_API_KEY", "modal": "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET", "colab": "COLAB_API_KEY",
}  # fmt: skip


def accesses() -> dict[str, Access]:
    """Every provider that there is an adapter for, with the person's own key. Raises SettingsError."""
    return {name: Access(read()) for name, read in READERS.items()}


def _secret(name: str, value: str) -> SecretStr:
    """``value``, if it can be a key. An HTTP library would repeat one that cannot in its error."""
    if not value or not all("!" <= c <= "~" for c in value):
        raise SettingsError(
            f"{name} is empty, or holds spaces or characters that no key has.", hint="Set the key alone."
        )
    return SecretStr(value)


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as bad:
        raise SettingsError(
            f"KAGGLE_API_TOKEN names a file that cannot be read ({type(bad).__name__})."
        ) from None


def configured() -> dict[str, bool]:
    """Which providers have a key here. What a key is worth, only its provider can tell."""
    have = {name: read() is not None for name, read in READERS.items()}
    return {**have, "colab": bool(key("COLAB_API_KEY"))}
