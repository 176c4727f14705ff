"""The index folder: what opens is whole; anything else is refused by name, and nothing foreign is harmed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.core.errors import CorpusError, IndexError_
from accel.core.passage import Passage
from accel.core.task import Numerics, Spec, Stage
from accel.index import store
from accel.index.store import HybridIndex

SPEC = Spec(Stage.EMBED, model="m", revision="r", dimension=4, normalise=True)
PASSAGES = [
    Passage("a.b", "parse a date", "s:1", "p"),
    Passage("c", "copy ünïcode \ud800 tree\nsecond line", "s:2", "p"),
    Passage("", "", "s:3", "p"),
]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    HybridIndex.build(tmp_path / "index", PASSAGES, VECTORS, SPEC)
    return tmp_path / "index"


def data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name != "meta.json")


def test_what_was_built_comes_back(folder: Path) -> None:
    index = HybridIndex.open(folder, SPEC)
    assert len(index) == 3
    assert index.spec == SPEC
    assert index.passages([2, 0, 1]) == [PASSAGES[2], PASSAGES[0], PASSAGES[1]]
    assert np.array_equal(index.vectors, VECTORS)
    assert not index.vectors.flags.writeable
    assert list(index.lexical.top_k("parse", 3)[0]) == [0]


def test_the_id_is_of_the_content_and_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    same = HybridIndex.build(tmp_path / "elsewhere", PASSAGES, VECTORS, SPEC)
    assert same.id == HybridIndex.open(folder).id
    ids = {
        same.id,
        HybridIndex.build(tmp_path / "1", PASSAGES, VECTORS + 1, SPEC).id,
        HybridIndex.build(tmp_path / "2", PASSAGES, VECTORS, replace(SPEC, numerics=Numerics.BF16)).id,
        HybridIndex.build(tmp_path / "3", PASSAGES[:2], VECTORS[:2], SPEC).id,
        HybridIndex.build(
            tmp_path / "4", [replace(PASSAGES[0], source="moved"), *PASSAGES[1:]], VECTORS, SPEC
        ).id,
    }
    assert len(ids) == 5


def test_building_again_replaces_the_index_while_the_old_one_is_read(folder: Path) -> None:
    old = HybridIndex.open(folder)
    new = HybridIndex.build(folder, PASSAGES[:1], VECTORS[:1], SPEC)
    assert len(new) == len(HybridIndex.open(folder)) == 1
    assert old.passages([1]) == [PASSAGES[1]]  # its files stay mapped
    assert np.array_equal(old.vectors, VECTORS)
    assert len(data_files(folder)) == 3


@pytest.mark.parametrize("step", range(7))
def test_a_crash_at_any_step_leaves_the_old_index_or_the_new_one(
    folder: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each data file is synced and renamed, then meta.json likewise: die before the n-th sync."""
    before = HybridIndex.open(folder).id
    real, count = store._sync, iter(range(100))

    def dying(path: Path) -> None:
        if next(count) == step:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(store, "_sync", dying)
    finished = False
    try:
        HybridIndex.build(folder, PASSAGES[:2], VECTORS[:2], SPEC)
        finished = True
    except KeyboardInterrupt:
        pass
    monkeypatch.setattr(store, "_sync", real)
    index = HybridIndex.open(folder)
    assert (index.id == before) == (step < 4)  # the fifth sync is of the folder, after the rename
    assert finished == (step >= 5)
    assert len(HybridIndex.build(folder, PASSAGES[:2], VECTORS[:2], SPEC)) == 2  # and again


@pytest.mark.parametrize("which", range(3))
def test_a_changed_byte_is_noticed_in_every_file(folder: Path, which: int) -> None:
    path = data_files(folder)[which]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IndexError_, match=r"damaged.*build the index again"):
        HybridIndex.open(folder)


@pytest.mark.parametrize("which", range(3))
def test_a_cut_or_missing_file_is_noticed(folder: Path, which: int) -> None:
    path = data_files(folder)[which]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IndexError_, match="damaged"):
        HybridIndex.open(folder)
    path.unlink()
    with pytest.raises(IndexError_, match="missing"):
        HybridIndex.open(folder)


def test_half_written_absent_and_foreign_folders_are_told_apart(folder: Path, tmp_path: Path) -> None:
    (folder / "meta.json").unlink()
    with pytest.raises(IndexError_, match="half-written"):
        HybridIndex.open(folder)
    with pytest.raises(IndexError_, match="no index"):
        HybridIndex.open(tmp_path / "nowhere")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "meta.json").write_text('{"schema": "another program"}')
    with pytest.raises(IndexError_, match="another program"):
        HybridIndex.open(foreign)
    (foreign / "meta.json").write_text("[1, 2")
    with pytest.raises(IndexError_, match="cannot be read"):
        HybridIndex.open(foreign)


def test_another_spec_is_refused_and_named(folder: Path) -> None:
    with pytest.raises(IndexError_, match="numerics"):
        HybridIndex.open(folder, replace(SPEC, numerics=Numerics.FP16))


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"stage": "embed", "model": "another"}},
        {"passages": 2},
        {"dimension": 5},
        {"id": "0" * 64},
        {"files": {}},
        {"spec": {"stage": "no such stage"}},
    ],
)
def test_an_altered_meta_is_refused(folder: Path, change: dict[str, object]) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(IndexError_):
        HybridIndex.open(folder)


def test_meta_cannot_name_a_file_outside(folder: Path, tmp_path: Path) -> None:
    shutil.copy(data_files(folder)[0], tmp_path / "outside")
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"]["passages"]["name"] = "../outside"
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(IndexError_, match="not ours"):
        HybridIndex.open(folder)


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("my only copy")
    with pytest.raises(IndexError_, match=r"thesis\.txt"):
        HybridIndex.build(tmp_path, PASSAGES, VECTORS, SPEC)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "meta.json").write_text('{"schema": "another program"}')
    with pytest.raises(IndexError_):
        HybridIndex.build(other, PASSAGES, VECTORS, SPEC)
    assert (other / "meta.json").read_text() == '{"schema": "another program"}'
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(IndexError_, match="cannot be used"):
        HybridIndex.build(file, PASSAGES, VECTORS, SPEC)


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    bad = VECTORS.copy()
    bad[1, 2] = np.nan
    for passages, vectors, error, why in (
        ([], VECTORS[:0], CorpusError, "empty"),
        (PASSAGES, VECTORS[:2], IndexError_, "3 passages, but 2 vectors"),
        (PASSAGES, VECTORS[:, :3], IndexError_, "dimension 3"),
        (PASSAGES, bad, IndexError_, "NaN"),
    ):
        with pytest.raises(error, match=why):
            HybridIndex.build(tmp_path / "index", passages, vectors, SPEC)
    assert not (tmp_path / "index").exists()


def test_an_id_that_is_not_there_is_refused(folder: Path) -> None:
    for i in (-1, 3):
        with pytest.raises(IndexError_, match="not in this index"):
            HybridIndex.open(folder).passages([i])


def test_nothing_on_disk_is_a_pickle(folder: Path) -> None:
    for path in data_files(folder):
        head = path.read_bytes()[:9]
        assert head[:1] == b"{" or head[8:9] == b"{", path  # JSON Lines, or a safetensors header
