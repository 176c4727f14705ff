"""Where this runs. Guarantee: facts are read when asked, never at import, and nothing is ever printed.

On Kaggle, Colab and hosted editors secrets reach programs through environment variables or through one
function of the platform; ``secret`` looks in both, so that the same notebook runs everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform as _platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from accel.core.errors import SettingsError
from accel.core.offer import CPU, Gpu
from accel.core.row import Provenance

PACKAGES = (
    "accel", "torch", "sentence-transformers", "transformers", "faiss-cpu", "faiss-gpu", "numpy",
    "kagglesdk",
)  # fmt: skip


class Platform(StrEnum):
    """Which host runs this process."""

    KAGGLE = "kaggle"
    COLAB = "colab"
    LOCAL = "local"


def platform() -> Platform:
    """Kaggle and Colab are told by the variables their images set; everything else is local."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return Platform.KAGGLE
    if "COLAB_RELEASE_TAG" in os.environ:
        return Platform.COLAB
    return Platform.LOCAL


def workdir() -> Path:
    """The folder that keeps ledger, cache, indexes and jobs; created if it is missing.

    ``ACCEL_HOME`` wins; else /kaggle/working/accel, /content/accel, or the user's data folder. Raises
    SettingsError when it cannot be made.
    """
    if chosen := os.environ.get("ACCEL_HOME"):
        folder = Path(chosen).expanduser()
    elif platform() is Platform.KAGGLE:
        folder = Path("/kaggle/working/accel")
    elif platform() is Platform.COLAB:
        folder = Path("/content/accel")
    else:
        from platformdirs import user_data_path

        folder = user_data_path("accel", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise SettingsError(
            f"{folder} cannot be used ({bad.strerror}).", hint="Set ACCEL_HOME to another folder."
        ) from bad
    return folder


def secret(name: str) -> str | None:
    """The value of a secret: environment, then the platform's secret store. None if there is none."""
    if value := os.environ.get(name):
        return value
    try:
        if platform() is Platform.KAGGLE:
            from kaggle_secrets import UserSecretsClient  # type: ignore[import-not-found]

            return str(UserSecretsClient().get_secret(name)) or None
        if platform() is Platform.COLAB:
            from google.colab import userdata  # type: ignore[import-not-found]

            return userdata.get(name) or None
    except Exception:  # each store raises its own classes for "no such secret" and "no access"
        return None
    return None


@functools.cache
def gpu() -> Gpu:
    """This machine's GPU as its driver tells it, or ``core.offer.CPU``. Asks ``nvidia-smi``, once."""
    fields = _nvidia_smi("name,memory.total,compute_cap")
    if not fields:
        return CPU
    name, mebibytes, capability = (f.strip() for f in fields[0].rsplit(",", 2))
    try:
        return Gpu(name, len(fields), int(mebibytes) << 20, round(float(capability) * 10))
    except ValueError:  # "[N/A]": some devices do not tell; without the figures nothing can be placed there
        return CPU


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU of this machine at one moment, as its driver tells it.

    busy: share of the driver's last sampling period (a sixth of a second to a second, by product) in which
    a kernel ran, 0 to 1; None where the device does not tell. used_bytes, total_bytes: its memory.
    """

    name: str
    busy: float | None
    used_bytes: int | None
    total_bytes: int | None


def gpu_load() -> tuple[GpuLoad, ...]:
    """How busy each GPU of this machine is now; empty without one. Asks ``nvidia-smi`` each time.

    Source of the sampling period: ``nvidia-smi --help-query-gpu``, "utilization.gpu".
    """
    found = []
    for line in _nvidia_smi("name,utilization.gpu,memory.used,memory.total"):
        name, *figures = (f.strip() for f in line.rsplit(",", 3))
        if len(figures) != 3:
            continue
        busy, used, total = (int(f) if f.isdigit() else None for f in figures)  # "[N/A]": it does not tell
        found.append(
            GpuLoad(
                name, None if busy is None else busy / 100, None if used is None else used << 20,
                None if total is None else total << 20,
            )
        )  # fmt: skip
    return tuple(found)


def without_secrets() -> dict[str, str]:
    """This process's environment without anything that could be a key, for programs that need none."""
    secretive = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "WEBHOOK")
    return {k: v for k, v in os.environ.items() if not any(s in k.upper() for s in secretive)}


def _nvidia_smi(query: str) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run(
            [tool, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


@functools.cache
def cpu_name() -> str:
    """The processor's own name, as the kernel tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return _platform.processor() or _platform.machine()


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def commit() -> str:
    """The commit of the checkout this package is imported from ("+dirty" when changed).

    Outside a checkout: "files:" and a hash over the installed source, which identifies it as well.
    """
    root = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git and (root.parent / ".git").exists():
        try:
            head = _git(git, root, "rev-parse", "--short=12", "HEAD")
            return head + ("+dirty" if _git(git, root, "status", "--porcelain", "--", ".") else "")
        except (subprocess.SubprocessError, OSError):
            pass
    h = hashlib.blake2b(digest_size=6)
    for file in sorted(root.rglob("*.py")):
        h.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return f"files:{h.hexdigest()}"


def _git(git: str, root: Path, *args: str) -> str:
    done = subprocess.run(
        [git, "-C", str(root), *args], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()


def provenance(now: datetime) -> Provenance:
    """How a figure measured here and now was made. ``now`` is UTC, from the caller's clock."""
    card = gpu()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    driver = (_nvidia_smi("driver_version") or ["none"])[0].strip() if card.capability else "none"
    return Provenance(
        device=card.name if card.capability else cpu_name(),
        cores=cores(),
        driver=driver,
        os=_platform.platform(terse=True),
        python=_platform.python_version(),
        packages=versions or {"python": sys.version.split()[0]},
        commit=commit(),
        measured_at=now,
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    )
