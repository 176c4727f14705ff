"""Keys. Guarantee: no secret is ever printed, logged, or part of an error.

A key comes from the variable that its provider's own tools use, from the secret store of Kaggle or Colab, or
from the ``[keys]`` table of the settings file, which only its owner may be able to read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from accel import environment
from accel.config import read_file
from accel.core.errors import SettingsError

KEY_NAMES = (
    "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "RUNPOD_API_KEY", "VASTAI_API_KEY",
    "VAST_API_KEY", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_API_KEY", "COLAB_API_KEY",
    "COLAB_CLI",
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


class ColabKey(BaseModel):
    """An access token of Google's, or what one is fetched with: the fields of an "authorised user"."""

    model_config = ConfigDict(frozen=True)
    token: SecretStr = SecretStr("")
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    refresh_token: SecretStr = SecretStr("")
    cli: str = ""  # the program of Google's command line, which signs in by itself


class ModalKey(BaseModel):
    """Modal's token id and secret."""

    model_config = ConfigDict(frozen=True)
    token_id: str
    token_secret: SecretStr


Key = KaggleKey | ApiKey | ModalKey | ColabKey


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
            token = _read_file("KAGGLE_API_TOKEN", Path(token).expanduser())
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


def colab_key(read: Callable[[str], str] = key) -> ColabKey | None:
    """Google's sign-in for Colab, from COLAB_API_KEY: an access token; the JSON of an authorised user, or the
    path of its file; or "adc", for the file of GOOGLE_APPLICATION_CREDENTIALS, else gcloud's own.

    That file is never taken unasked: it is there for other work of the same person, and one credential is
    enough. Without COLAB_API_KEY, COLAB_CLI may name the program of Google's command line, which has a
    sign-in of its own. Raises SettingsError for what cannot be a sign-in.
    """
    value = read("COLAB_API_KEY")
    if not value:
        program = read("COLAB_CLI")
        return ColabKey(cli=str(Path(program).expanduser())) if program else None
    if value == "adc":
        chosen = read("GOOGLE_APPLICATION_CREDENTIALS")
        value = chosen or str(Path("~/.config/gcloud/application_default_credentials.json"))
    if value.startswith(("/", "~", ".")):
        value = _read_file("COLAB_API_KEY", Path(value).expanduser())
    if not value.startswith("{"):
        return ColabKey(token=_secret("COLAB_API_KEY", value))
    try:
        told = json.loads(value)
        fields = {n: str(told[n]) for n in ("client_id", "client_secret", "refresh_token")}
    except (ValueError, KeyError, TypeError):
        raise SettingsError(
            "COLAB_API_KEY is not the JSON of an authorised user (client_id, client_secret, refresh_token); "
            "a service account is none.",
            hint="gcloud auth application-default login makes one.",
        ) from None
    return ColabKey(
        client_id=fields["client_id"], client_secret=_secret("COLAB_API_KEY", fields["client_secret"]),
        refresh_token=_secret("COLAB_API_KEY", fields["refresh_token"]),
    )  # fmt: skip


READERS: dict[str, Callable[[], Key | None]] = {
    "kaggle": kaggle_key, "runpod": runpod_key, "vast": vast_key, "modal": modal_key,
    "colab": colab_key,
}  # fmt: skip
# what to set for each
VARIABLES = {
    "kaggle": "KAGGLE_API_TOKEN (kaggle.com, Settings, API)", "runpod": "RUNPOD_API_KEY",
    "vast": "VAST_API_KEY", "modal": "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET",
    "colab": "COLAB_API_KEY (an access token, the file of an authorised user, or adc), or COLAB_CLI",
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


def _read_file(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as bad:
        raise SettingsError(
            f"{name} names a file that cannot be read ({type(bad).__name__})."
        ) from None


def configured() -> dict[str, bool]:
    """Which providers have a key here. What a key is worth, only its provider can tell."""
    return {name: read() is not None for name, read in READERS.items()}


def lease_token(home: Path, name: str) -> str:
    """The bearer token of the lease with this name: the same for every process of this home.

    It is made from the name and one secret, kept in ``home``/lease.key (0600, made when first asked for), so
    that no file of ours holds a token. Raises SettingsError when that file cannot be used.
    """
    return hmac.new(_lease_secret(home), b"token|" + name.encode(), "sha256").hexdigest()


def lease_certificate(home: Path, name: str) -> tuple[str, str]:
    """Certificate and private key, PEM, of the lease with this name, for a machine behind no proxy that
    speaks TLS. Both are made from the same secret as the token, always the same, and kept nowhere.

    Ed25519 signs without chance (RFC 8032), so that two processes get one certificate. Whoever speaks to the
    lease takes just this certificate (``providers.transport.pinned``): its names and dates say nothing.
    Raises SettingsError where ``cryptography`` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise SettingsError(
            "a lease with a certificate of its own needs cryptography.", hint="pip install 'accel[vast]'"
        ) from None
    seed = hmac.new(_lease_secret(home), b"certificate|" + name.encode(), "sha256").digest()
    private = Ed25519PrivateKey.from_private_bytes(seed)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "accel lease")])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(private.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(seed).digest()[:16]) >> 1 or 1)
        .not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2049, 12, 31))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, None)
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(pem).decode(), secret.decode()


def _lease_secret(home: Path) -> bytes:
    """32 bytes of chance, made once: whoever comes second reads what the first one wrote."""
    path = home / "lease.key"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            part = home / f".lease.key.{os.getpid()}.{secrets.token_hex(4)}"
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)  # whole or not at all, and never over another's
            except FileExistsError:
                pass
            finally:
                part.unlink()
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"{path} can be read by others.", hint="chmod 600 it, or delete it.")
        secret = path.read_bytes()
    except OSError as bad:
        raise SettingsError(f"{path} cannot be used ({type(bad).__name__}).") from None
    if len(secret) != 32:
        raise SettingsError(f"{path} is damaged.", hint="Delete it once nothing is rented any more.")
    return secret
