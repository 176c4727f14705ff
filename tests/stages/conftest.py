"""What the stages' tests share: the bundled encoder, and a small index of real docstrings."""

from __future__ import annotations

import bundled
import pytest

from accel.core.passage import Passage
from accel.index.store import HybridIndex
from accel.stages.embed import Encoder

TEXTS = {
    "datetime.date.fromisoformat": "fromisoformat(date_string)\n"
    "Construct a date from a string in ISO 8601 format.",
    "shutil.copytree": "copytree(src, dst, symlinks=False)\n"
    "Recursively copy a directory tree and return the destination directory.\n\n"
    "If exception(s) occur, an Error is raised with a list of reasons.\n\n"
    ">>> copytree('a', 'b')\n'b'",
    "functools.lru_cache": "lru_cache(maxsize=128, typed=False)\n"
    "Least-recently-used cache decorator.\n\n"
    "If *maxsize* is set to None, the LRU features are disabled and the cache can grow without bound.",
    "threading.Timer": "Call a function after a specified number of seconds:\n\n"
    "    t = Timer(30.0, f, args=None, kwargs=None)\n    t.start()",
    "json.dumps": "dumps(obj, *, indent=None)\nSerialize an object to a JSON formatted string.",
    "statistics.median": "median(data)\nReturn the median (middle value) of numeric data.",
}


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return bundled.encoder()


@pytest.fixture(scope="session")
def passages() -> list[Passage]:
    return [Passage(name, text, f"test · {name}", "test") for name, text in TEXTS.items()]


@pytest.fixture(scope="session")
def index(
    encoder: Encoder, passages: list[Passage], tmp_path_factory: pytest.TempPathFactory
) -> HybridIndex:
    vectors = encoder.embed([p.content for p in passages])
    return HybridIndex.build(tmp_path_factory.mktemp("index") / "it", passages, vectors, encoder.spec)
