"""Settings. Guarantee: one that cannot be meant is an error that names it, and money is read exactly.

Settings come from the environment (``ACCEL_…``, nested with two underscores: ``ACCEL_BUDGET__MONTH``) and
from one TOML file; the environment wins. Dollars are decimal. Without any budget nothing is ever paid for:

    providers = ["kaggle", "local"]      # tried in this order, before anything else is weighed
    fallback = ["modal", "local"]        # the order of what is behind the first choice
    disabled = ["vast"]                  # never used
    value_of_hour = 1.0                  # dollars that an hour of waiting is worth to you
    value_of_deadline = 0.05             # dollars that a missed deadline costs you
    launches_per_hour = 20               # machines that may be rented in an hour, over all providers
    accepted_terms = ["kaggle/private data"]
    generator_url = "http://127.0.0.1:11434/v1"

    [priorities]                         # scores are multiplied: below 1 prefers, above 1 avoids
    runpod = 0.8

    [budget]                             # dollars, per UTC day, ISO week and month, over all providers
    day = 1.0
    month = 10
    [budget.runpod]                      # and at one of them
    month = 5

    [credits]                            # dollars prepaid or given: used up before any budget
    modal = 30

    [alerts]
    at = [0.5, 0.8, 1.0]                 # shares of a budget
    webhook = "https://example.org/hook" # is sent JSON; or a command, which gets it on standard input
    command = "notify-send accel"

    [targets]
    simple_s = 1.0
    complex_s = 3.0
    success = 0.95
    cost_per_query = 0.05
    utilisation = 0.7

    [keys]
    KAGGLE_API_TOKEN = "…"
"""

from __future__ import annotations

import math
import os
import tomllib
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SettingsErrorOfPydantic

from accel.core.errors import SettingsError
from accel.core.money import NANO, NanoUSD

PROVIDERS = ("local", "kaggle", "colab", "runpod", "vast", "modal", "cluster")
# Above it a number is more likely nano-dollars or a slip than a budget that somebody means.
LARGEST_DOLLARS = 1_000_000


def settings_file() -> Path:
    """``ACCEL_SETTINGS``, else accel/settings.toml in the user's configuration folder."""
    if chosen := os.environ.get("ACCEL_SETTINGS"):
        return Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("accel", appauthor=False) / "settings.toml"


def _dollars(value: Any) -> NanoUSD:
    """Exact nano-dollars of a TOML number or a decimal string."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number of dollars")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("must be a number of dollars") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError("must be a number of dollars, from 0 on")
    if amount > LARGEST_DOLLARS:
        raise ValueError(f"is above ${LARGEST_DOLLARS:,}: is it in dollars?")
    if amount * NANO != (amount * NANO).to_integral_value():
        raise ValueError("has more than nine decimal places")
    return NanoUSD(int(amount * NANO))


def _known(name: str) -> str:
    if name not in PROVIDERS:
        raise ValueError(f"there is no provider {name!r}; there are: {', '.join(PROVIDERS)}")
    return name


def _list(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Dollars = Annotated[NanoUSD, BeforeValidator(_dollars)]
Name = Annotated[str, AfterValidator(_known)]
Names = Annotated[tuple[Name, ...], NoDecode, BeforeValidator(_list)]
NotNegative = Annotated[float, Field(ge=0), AfterValidator(_finite)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_finite)]
Share = Annotated[float, Field(gt=0, le=1)]
Below = Annotated[float, Field(gt=0, lt=1)]  # a target that can be exceeded


class Caps(BaseModel):
    """Most that may be spent per UTC day, ISO week and month, nano-dollars; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    day: Dollars | None = None
    week: Dollars | None = None
    month: Dollars | None = None


class Budget(Caps):
    """Caps over all providers, and tables of caps by provider name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Caps]

    @property
    def providers(self) -> dict[str, Caps]:
        return dict(self.__pydantic_extra__)


class Alerts(BaseModel):
    """When and how to be told. at: shares of a budget. Webhook and command may hold a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: tuple[Share, ...] = (0.5, 0.8, 1.0)
    webhook: SecretStr = SecretStr("")
    command: SecretStr = SecretStr("")


class Goals(BaseModel):
    """The guide's performance targets: seconds per question, shares, dollars per question."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    simple_s: Positive = 1.0
    complex_s: Positive = 3.0
    success: Below = 0.95
    cost_per_query: Dollars = NanoUSD(NANO // 20)
    utilisation: Below = 0.7


class Settings(BaseSettings):
    """What the person prefers. Every field may be set as ``ACCEL_<NAME>`` (lists with commas)."""

    model_config = SettingsConfigDict(
        env_prefix="ACCEL_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    providers: Names = ()
    fallback: Names = ()
    disabled: Names = ()
    accepted_terms: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list)] = ()
    value_of_hour: NotNegative = 1.0
    value_of_deadline: NotNegative = 0.05
    launches_per_hour: Annotated[int, Field(ge=0, le=10_000)] | None = None  # see ``ledger.limits``
    priorities: dict[Name, Positive] = {}
    budget: Budget = Budget.model_validate({})
    credits: dict[Name, Dollars] = {}
    alerts: Alerts = Alerts()
    targets: Goals = Goals()
    generator_url: str = ""
    generator_model: str = ""

    @field_validator("budget")
    @classmethod
    def _of_known_providers(cls, value: Budget) -> Budget:
        for name in value.providers:
            _known(name)
        return value

    @field_validator("disabled")
    @classmethod
    def _not_this_machine(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "local" in value:
            raise ValueError("this machine is the fallback and cannot be disabled")
        return value

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """The environment before the file, which ``load_settings`` hands in as init arguments."""
        return env_settings, init_settings


def load_settings() -> Settings:
    """Read environment and file. Raises SettingsError that names the setting, never a value."""
    table = read_file()
    table.pop("keys", None)
    try:
        return Settings(**table)
    except ValidationError as bad:
        first = bad.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        said = first["msg"].removeprefix("Value error, ")
        raise SettingsError(
            f"setting {name!r} cannot be used: {said}.", hint=f"See {settings_file()}."
        ) from None
    except SettingsErrorOfPydantic as bad:  # a table in a variable that is not JSON
        raise SettingsError(
            f"an ACCEL_ variable cannot be used: {bad}.", hint=f"See {settings_file()}."
        ) from None


def read_file() -> dict[str, Any]:
    """The settings file as TOML, keys and all; empty when there is none. Raises SettingsError."""
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
