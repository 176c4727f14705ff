"""Who will settle a hold. Guarantee: an owner counts as alive exactly as long as its process does.

An owner is a locked file in a folder beside the ledger. The operating system drops the lock with its
process, however that ends, so that what a killed process held can be told from what a slow one holds.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout


class Owner:
    """This process, or one user of a ledger in it. Its file is made when the name is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._lock: FileLock | None = None

    @property
    def name(self) -> str:
        """Unlike any other, also of other processes and of the past."""
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"{os.getpid()}-{os.urandom(6).hex()}"
            lock = FileLock(_file(self._folder, name), thread_local=False)
            lock.acquire()
            self._name, self._lock = name, lock
        return self._name

    def end(self) -> None:
        """From here on it is not alive any more."""
        if self._lock is not None:
            _file(self._folder, self._name).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


def alive(folder: Path, name: str) -> bool:
    """Whether the owner of that name can still settle what it holds."""
    path = _file(folder, name)
    return path.exists() and not _remove_if_free(path)


def sweep(folder: Path) -> None:
    """Remove the files of owners that are gone."""
    for path in folder.glob("*.lock"):
        _remove_if_free(path)


def _remove_if_free(path: Path) -> bool:
    """Take the lock if nobody has it, and remove the file while it is ours: nobody can come in between."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"
