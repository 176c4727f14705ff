"""Every test runs apart from this machine's user and network. Guarantee: no key, no home, no outside.

HOME and all folders of ours are temporary, every provider's key is out of the environment, model hubs are
offline, and only loopback and unix sockets can be opened (pytest-socket, set in pyproject.toml). What a
test starts as a process of its own inherits the environment, but not the socket guard.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["budget"]

KEYS = ("KAGGLE_", "RUNPOD_", "VAST", "MODAL_", "COLAB_", "GOOGLE_", "HF_TOKEN", "ACCEL_", "XDG_", "OPENAI_")
ROOT = Path(__file__).parents[1]
FROM_OUTSIDE = pytest.StashKey[dict[str, str]]()

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True, max_examples=60, database=None)
settings.register_profile("explore", deadline=None, max_examples=600)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is collected: libraries read some of this when they are imported."""
    # A shell starts what it puts in the background with Ctrl-C ignored, and every child would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.TemporaryDirectory(prefix="accel-test-home-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    before = dict(os.environ)

    def restore() -> None:
        os.environ.clear()
        os.environ.update(before)

    config.add_cleanup(restore)
    real_home = Path.home()
    config.stash[FROM_OUTSIDE] = {n: v for n, v in os.environ.items() if n.startswith(KEYS)}
    for name in config.stash[FROM_OUTSIDE]:
        del os.environ[name]
    os.environ |= {
        "HOME": home.name,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # made once, not by every run: matplotlib's font list takes seconds
        "MPLCONFIGDIR": str(ROOT / ".pytest_cache" / "matplotlib"),
    }
    # pip, which the conformance checks call, keeps its configuration and cache
    for name, path in (
        ("PIP_CONFIG_FILE", real_home / ".config/pip/pip.conf"), ("PIP_CACHE_DIR", real_home / ".cache/pip"),
    ):  # fmt: skip
        if path.exists():
            os.environ.setdefault(name, str(path))


@pytest.fixture(scope="session")
def outside(pytestconfig: pytest.Config) -> dict[str, str]:
    """Keys and settings as they were outside, which only a test marked ``live`` may use."""
    return pytestconfig.stash[FROM_OUTSIDE]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder and a settings file of its own for each test; the file does not exist."""
    folder = tmp_path_factory.mktemp("accel")
    monkeypatch.setenv("ACCEL_HOME", str(folder / "home"))
    monkeypatch.setenv("ACCEL_SETTINGS", str(folder / "settings.toml"))
    yield
