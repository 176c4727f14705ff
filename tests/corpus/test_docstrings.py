"""Docstrings of what is installed: public names, no repetition, nothing imported, bounded."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from accel.core.passage import Passage
from accel.corpus import docstrings
from accel.corpus.docstrings import docstring_passages, library_passages, topic_passages
from accel.corpus.libraries import Library, installed, is_deprecated, nearby, standard_library


@pytest.fixture(scope="module")
def stdlib() -> dict[str, Passage]:
    made: dict[str, Passage] = {}
    for passage in library_passages(standard_library()):
        made.setdefault(passage.name, passage)
    return made


@pytest.mark.parametrize(
    "name",
    [
        "datetime.date.fromisoformat",  # defined in _pydatetime from Python 3.12 on
        "functools.lru_cache",
        "decimal.Decimal.quantize",  # _pydecimal
        "collections.abc.Mapping",  # _collections_abc
        "asyncio.timeout",  # asyncio.timeouts, through a star import
        "concurrent.futures.Future",  # concurrent.futures._base
        "json.JSONDecoder",
        "os.path.join",  # posixpath
        "unittest.TestCase",
        "pathlib.Path.glob",
        "shutil.copytree",
    ],
)
def test_the_name_is_the_one_that_people_type(stdlib: dict[str, Passage], name: str) -> None:
    assert name in stdlib
    assert stdlib[name].source.startswith(f"python {sys.version.split()[0]} stdlib · ")
    assert stdlib[name].package == "python"


def test_nothing_private_tested_or_deprecated_is_there(stdlib: dict[str, Passage]) -> None:
    for name in stdlib:
        parts = name.split(".")
        assert not any(p.startswith("_") for p in parts), name
        assert parts[0] not in {"distutils", "test", "idlelib", "lib2to3", "ntpath"}, name
        assert "tests" not in parts, name


def test_the_signature_opens_the_passage_and_the_line_is_right(stdlib: dict[str, Passage]) -> None:
    passage = stdlib["shutil.copytree"]
    assert passage.text.startswith("copytree(src, dst, ")
    path, _, line = passage.source.rpartition(" · ")[2].partition(":")
    lines = (standard_library().root / path).read_text().splitlines()
    assert lines[int(line) - 1].startswith("def copytree(")


def test_the_language_reference_is_read_as_data() -> None:
    topics = list(topic_passages())
    names = {p.name for p in topics}
    assert "Python language: The with statement (with)" in names
    assert all(len(p.text.split()) <= 200 for p in topics)
    assert not any(set(line) == {"*"} for p in topics for line in p.text.splitlines() if len(line) > 3)


def test_the_default_is_bounded_mixed_and_without_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "nearby", lambda distance: ["httpx", "safetensors"])
    calls: list[tuple[int, int]] = []
    passages = docstring_passages(600, progress=lambda done, total: calls.append((done, total)))
    assert len(passages) == 600
    packages = [p.package for p in passages]
    assert packages.count("python") == 480
    assert packages.count("httpx") > 30
    texts = [" ".join(p.text.split()) for p in passages]
    assert len(set(texts)) == len(texts)
    assert calls[-1] == (600, 600)
    assert passages == docstring_passages(600)


def library(tmp_path: Path, files: dict[str, str]) -> Library:
    made = {}
    for path, text in files.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        made[name] = file
    return Library("toy", "1", "toy 1", tmp_path, made)


def test_a_private_path_is_named_by_whoever_re_exports_it(tmp_path: Path) -> None:
    toy = library(
        tmp_path,
        {
            "toy/__init__.py": """
                from ._impl import renamed_inside as shown
                from .deep import *
                from .helper import borrowed
            """,
            "toy/_impl.py": '''
                def renamed_inside(a, b=2, *, c: int = 3):
                    """Does the thing that is shown."""
                def hidden():
                    """Nobody re-exports this one."""
            ''',
            "toy/deep/__init__.py": 'from ._core import Thing\n__all__ = ["Thing"]\n',
            "toy/deep/_core.py": '''
                class Thing:
                    """A thing from deep below."""
                    def __init__(self, size): ...
                    def turn(self, by):
                        """Turn it around by some degrees."""
                    @property
                    def angle(self):
                        """How far it has been turned."""
                    def _inner(self):
                        """Not for anyone else."""
            ''',
            "toy/helper.py": '''
                from os.path import join
                def borrowed():
                    """Public in its own right already."""
            ''',
        },
    )
    found = {p.name: p.text for p in library_passages(toy)}
    assert found == {
        "toy.shown": "shown(a, b=2, *, c=3)\nDoes the thing that is shown.",
        "toy.borrowed": "borrowed()\nPublic in its own right already.",
        "toy.Thing": "Thing(size)\nA thing from deep below.",
        "toy.Thing.turn": "turn(by)\nTurn it around by some degrees.",
        "toy.Thing.angle": "How far it has been turned.",
    }


def test_nothing_is_executed_and_what_cannot_be_parsed_is_passed_by(tmp_path: Path) -> None:
    toy = library(
        tmp_path,
        {
            "toy/__init__.py": f'"""Toy, quite harmless."""\nopen({str(tmp_path / "ran")!r}, "w")\n',
            "toy/broken.py": "def (:\n",
            "toy/nul.py": "x = 1\0\n",
        },
    )
    assert [p.name for p in library_passages(toy)] == ["toy"]
    assert not (tmp_path / "ran").exists()


def test_star_imports_in_a_circle_end(tmp_path: Path) -> None:
    toy = library(
        tmp_path,
        {
            "toy/__init__.py": "from .a import *\n",
            "toy/a.py": 'from .b import *\ndef one():\n    """The first of the two."""\n',
            "toy/b.py": 'from .a import *\ndef two():\n    """The second of the two."""\n',
        },
    )
    assert {p.name for p in library_passages(toy)} == {"toy.one", "toy.two"}


def test_docstrings_kept_apart_from_their_objects_are_found() -> None:
    (numpy,) = installed(["numpy"])
    names = set()
    for passage in library_passages(numpy):
        names.add(passage.name)
        if "numpy.arange" in names and "numpy.zeros" in names:
            break
    assert {"numpy.arange", "numpy.zeros"} <= names  # add_newdoc("numpy._core.multiarray", …)


def test_deprecation_is_read_from_the_source() -> None:
    assert is_deprecated('import warnings\nwarnings._deprecated(__name__, remove=(3, 13))\n')
    assert not is_deprecated('def f():\n    warnings._deprecated(__name__)\n')


def test_what_we_require_is_near_and_an_unknown_name_is_not_installed() -> None:
    assert {"numpy", "torch", "httpx"} <= set(nearby()) or nearby() == []
    assert "pytest" not in nearby()
    assert installed(["no-such-distribution"]) == []
