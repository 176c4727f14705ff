"""What the sandbox Kaggle remembers. Guarantee: a restarted sandbox knows every kernel, file and charge.

One account, one folder:

    account.json                    user name, key, token, secret, start of the first quota week (0600)
    charges.jsonl                   one line per finished GPU session: when it ended, seconds
    kernels/<slug>/v<n>/session.json, script.py, working/, input/, log.jsonl, exit.json
    datasets/<slug>/dataset.json, v<n>/    see ``kaggle_datasets``; uploads/: see ``kaggle_blobs``

Every file but the append-only charges is replaced by rename, so that a kill leaves the old or the new.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accel.core.errors import UsageError

WEEK_S = 7 * 24 * 3600.0
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")

# kagglesdk 0.1.37, kernels/types/kernels_enums.py:31-38
ACTIVE = ("QUEUED", "RUNNING")


@dataclass(slots=True)
class Session:
    """One version of one kernel, and the session that runs it. Instants are epoch seconds."""

    slug: str
    version: int
    kernel_id: int
    title: str
    language: str
    kernel_type: str
    gpu: bool
    internet: bool
    is_private: bool
    timeout_s: float
    created_at: float
    state: str = "QUEUED"
    started_at: float = 0.0
    ended_at: float = 0.0
    failure: str = ""
    sources: list[str] = field(default_factory=list)  # data sets, as "user/slug"

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


class Store:
    """The folder, in memory and on disk. One process at a time: raises UsageError if it is in use."""

    def __init__(
        self, root: Path, *, username: str, key: str, token: str, now: Callable[[], float],
        week_over_s: float = 0.0,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.now = root, now
        self._lock = (root / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UsageError(f"Another sandbox is using {root}; stop it or choose another.") from None
        account = self._account(username, key, token, now() - week_over_s)
        self.username: str = account["username"]
        self.key: str = account["key"]
        self.token: str = account["token"]
        self.epoch: float = account["epoch"]
        self._secret: str = account["secret"]
        self._sessions: dict[str, list[Session]] = {}
        for file in sorted((root / "kernels").glob("*/v*/session.json")):
            session = Session(**json.loads(file.read_text()))
            self._sessions.setdefault(session.slug, []).append(session)
        for versions in self._sessions.values():
            versions.sort(key=lambda s: s.version)

    def close(self) -> None:
        """Let another sandbox use the folder."""
        self._lock.close()

    def _account(self, username: str, key: str, token: str, epoch: float) -> dict[str, Any]:
        file = self.root / "account.json"
        if file.exists():
            known = json.loads(file.read_text())
        else:
            known = {
                "username": "sandbox",
                "key": secrets.token_hex(16),
                "token": "KGAT_" + secrets.token_hex(16),
                "secret": secrets.token_hex(16),
                "epoch": epoch,
            }
        given = {"username": username, "key": key, "token": token}
        known |= {name: value for name, value in given.items() if value}
        if not SLUG.fullmatch(known["username"]):
            raise UsageError(f"{known['username']!r} is no Kaggle user name.")
        _replace(file, known, mode=0o600)
        return known

    # --- sessions

    def add(self, script: str, **given: Any) -> Session:
        """A new version of ``given["slug"]``, on disk before this returns."""
        slug: str = given["slug"]
        versions = self._sessions.get(slug, [])
        kernel_id = versions[0].kernel_id if versions else secrets.randbelow(1 << 30) + 1
        version = versions[-1].version + 1 if versions else 1
        session = Session(
            version=version, kernel_id=kernel_id, created_at=self.now(), **given
        )  # fmt: skip
        folder = self.folder(session)
        folder.mkdir(parents=True)
        (folder / "script.py").write_text(script, encoding="utf-8")
        self.save(session)
        self._sessions.setdefault(slug, []).append(session)
        return session

    def save(self, session: Session) -> None:
        """Write the session's state. Does nothing once its kernel is deleted."""
        folder = self.folder(session)
        if folder.exists():
            _replace(folder / "session.json", asdict(session))

    def folder(self, session: Session) -> Path:
        return self.root / "kernels" / session.slug / f"v{session.version}"

    def sessions(self) -> Iterator[Session]:
        """Every session of every kernel."""
        for versions in self._sessions.values():
            yield from versions

    def latest(self) -> list[Session]:
        """The newest session of each kernel, newest first."""
        newest = [versions[-1] for versions in self._sessions.values()]
        return sorted(newest, key=lambda s: (s.created_at, s.kernel_id), reverse=True)

    def find(self, slug: str, label: str = "") -> Session | None:
        """The session of version ``label`` ("v2"), or the newest; None if there is none."""
        versions = self._sessions.get(slug, [])
        if not label:
            return versions[-1] if versions else None
        return next((s for s in versions if f"v{s.version}" == label), None)

    def delete(self, slug: str) -> None:
        """Forget the kernel and its files. Charges stay."""
        self._sessions.pop(slug, None)
        shutil.rmtree(self.root / "kernels" / slug, ignore_errors=True)

    def clear(self) -> None:
        """Forget every kernel and every charge; the account stays."""
        for slug in list(self._sessions):
            self.delete(slug)
        (self.root / "charges.jsonl").unlink(missing_ok=True)

    # --- output

    def outputs(self, session: Session) -> list[str]:
        """Regular files in the session's working folder, as sorted relative POSIX paths; no links."""
        working = self.folder(session) / "working"
        names = (p.relative_to(working).as_posix() for p in working.rglob("*"))
        return sorted(name for name in names if self.output(session, name))

    def output(self, session: Session, name: str) -> Path | None:
        """The file of one output; None if there is none, or it lies or points elsewhere."""
        working = (self.folder(session) / "working").resolve()
        path = working / name
        whole = path.resolve() == path  # no link and no ".." on the way
        return path if whole and path.is_relative_to(working) and path.is_file() else None

    def log(self, session: Session) -> list[dict[str, Any]]:
        """The log so far, as Kaggle's ``{stream_name, time, data}`` events."""
        file = self.folder(session) / "log.jsonl"
        if not file.exists():
            return []
        lines = file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]  # the last one may be half-written

    def sign(self, *parts: str) -> str:
        """What makes a download address unguessable, as Kaggle's signed addresses are."""
        message = "\0".join(parts).encode()
        return hmac.new(self._secret.encode(), message, hashlib.sha256).hexdigest()[:32]

    # --- quota

    def charge(self, seconds: float) -> None:
        """Add a finished GPU session to the account."""
        with (self.root / "charges.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": self.now(), "seconds": seconds}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def week(self, week_s: float) -> tuple[float, float, bool]:
        """(seconds charged in the current week, when the week ends, whether a GPU was ever used)."""
        start = self.epoch + (self.now() - self.epoch) // week_s * week_s
        file = self.root / "charges.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        charges = [json.loads(line) for line in lines]
        used = sum(c["seconds"] for c in charges if start <= c["at"] < start + week_s)
        return used, start + week_s, bool(charges)


def _replace(path: Path, content: Any, mode: int = 0o644) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        part.chmod(mode)
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
