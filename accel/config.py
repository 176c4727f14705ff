"""Settings and keys. Guarantee: no secret is ever printed, logged, or part of an error.

Settings come from the environment (``ACCEL_…``) and from one TOML file; the environment wins. Keys come
from the variables that each provider's own tools use, from the secret store of Kaggle or Colab, or from
the file's ``[keys]`` table, which only its owner may be able to read:

    providers = ["kaggle", "local"]      # tried in this order, before anything else is weighed
    value_of_hour = 1.0                  # dollars that an hour of waiting is worth to you
    accepted_terms = ["kaggle/private data"]
    generator_url = "http://127.0.0.1:11434/v1"

    [keys]
    KAGGLE_API_TOKEN = "…"
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from accel import environment
from accel.core.errors import SettingsError

KEY_NAMES = (
    "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "RUNPOD_API_KEY", "VASTAI_API_KEY",
    "VAST_API_KEY", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_API_KEY", "COLAB_API_KEY",
)  # fmt: skip

# kaggle.json has held 32 hexadecimal digits since there has been one
_LEGACY_KAGGLE_KEY = re.compile(r"[0-9a-f]{32}")


def settings_file() -> Path:
    """``ACCEL_SETTINGS``, else accel/settings.toml in the user's configuration folder."""
    if chosen := os.environ.get("ACCEL_SETTINGS"):
        return Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("accel", appauthor=False) / "settings.toml"


class Settings(BaseSettings):
    """What the person prefers. Every field may be set as ``ACCEL_<NAME>`` (lists with commas)."""

    model_config = SettingsConfigDict(env_prefix="ACCEL_", extra="forbid", frozen=True)

    providers: Annotated[tuple[str, ...], NoDecode] = ()
    accepted_terms: Annotated[tuple[str, ...], NoDecode] = ()
    value_of_hour: float = Field(default=1.0, ge=0)
    generator_url: str = ""
    generator_model: str = ""

    @field_validator("providers", "accepted_terms", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("value_of_hour")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("must be a number of dollars")
        return value

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """The environment before the file, which ``load_settings`` hands in as init arguments."""
        return env_settings, init_settings


class KaggleKey(BaseModel):
    """A user name and key, or a token; "" where there is none."""

    model_config = ConfigDict(frozen=True)
    username: str = ""
    key: SecretStr = SecretStr("")
    token: SecretStr = SecretStr("")


class ModalKey(BaseModel):
    """Modal's token id and secret."""

    model_config = ConfigDict(frozen=True)
    token_id: str
    token_secret: SecretStr


def load_settings() -> Settings:
    """Read environment and file. Raises SettingsError that names the setting, never a value."""
    table = _read_file()
    table.pop("keys", None)
    try:
        return Settings(**table)
    except ValidationError as bad:
        first = bad.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise SettingsError(
            f"setting {name!r} cannot be used: {first['msg']}.", hint=f"See {settings_file()}."
        ) from None


def key(name: str) -> str:
    """One key by its variable's name, or "". Environment and secret stores win over the file."""
    if found := environment.secret(name):
        return found.strip()
    keys = _read_file().get("keys", {})
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
    return {
        "kaggle": kaggle_key() is not None,
        "colab": bool(key("COLAB_API_KEY")),
        "runpod": bool(key("RUNPOD_API_KEY")),
        "vast": bool(key("VASTAI_API_KEY") or key("VAST_API_KEY")),
        "modal": modal_key() is not None,
    }


def _read_file() -> dict[str, Any]:
    path = settings_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as bad:
        raise SettingsError(f"{path} cannot be read ({type(bad).__name__}).") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        # the parser's message quotes position, not content
        raise SettingsError(f"{path} is not TOML: {bad}.") from None
    if "keys" in table and os.name == "posix" and path.stat().st_mode & 0o077:
        raise SettingsError(f"{path} holds keys and others can read it.", hint=f"Run: chmod 600 {path}")
    return table
