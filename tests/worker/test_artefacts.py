"""A result is read only as it was written: whole, unaltered, of this task and Spec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from accel.core.errors import BadOutput, JobFailed
from accel.core.task import Spec, Stage
from accel.wire import Envelope
from accel.worker.artefacts import (
    ENVELOPE,
    MANIFEST,
    JobResult,
    read_result,
    write_failure,
    write_result,
)

SPEC = Spec(Stage.EMBED, model="m", dimension=2).fields()
OUTPUT = Envelope("t", SPEC, {"vectors": np.ones((3, 2), np.float32)}, {"compute_s": 0.5})


def read(folder: Path, task_id: str = "t") -> JobResult:
    return read_result(folder, task_id=task_id, spec=SPEC, provider="kaggle")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_result(tmp_path, "t", OUTPUT, {"device": "T4"})
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    found = read(folder)
    assert found.output.to_bytes() == OUTPUT.to_bytes()
    assert found.env == {"device": "T4"}
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, ENVELOPE]  # no half-written part is left


def test_every_flipped_byte_of_the_envelope_is_caught(folder: Path) -> None:
    blob = (folder / ENVELOPE).read_bytes()
    for place in range(0, len(blob), 7):
        damaged = blob[:place] + bytes([blob[place] ^ 0x20]) + blob[place + 1 :]
        (folder / ENVELOPE).write_bytes(damaged)
        with pytest.raises(BadOutput, match="not what the job wrote"):
            read(folder)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_off_envelope_is_caught(folder: Path, cut: int) -> None:
    (folder / ENVELOPE).write_bytes((folder / ENVELOPE).read_bytes()[:cut])
    with pytest.raises(BadOutput, match="bytes"):
        read(folder)


@pytest.mark.parametrize("name", [MANIFEST, ENVELOPE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadOutput, match=f"left no {name}"):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 2"), ({"task_id": "u"}, "another task"),
        ({"artefacts": {}}, "cannot be read"), ({"artefacts": []}, "cannot be read"),
        ({"artefacts": {ENVELOPE: {"bytes": 1}}}, r"not what|cannot"),
        ({"status": "ok", "artefacts": None}, "cannot be read"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, changes: dict[str, object], words: str
) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))
    with pytest.raises(BadOutput, match=words):
        read(folder)


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "3", '"x"', "\x00"])
def test_a_manifest_that_is_no_manifest_is_refused(folder: Path, body: str) -> None:
    (folder / MANIFEST).write_text(body)
    with pytest.raises(BadOutput):
        read(folder)


def test_an_envelope_of_another_task_is_refused_though_its_hash_is_right(tmp_path: Path) -> None:
    other = Envelope("u", SPEC, OUTPUT.tensors)
    write_result(tmp_path, "t", other, {})
    with pytest.raises(BadOutput, match="another task or Spec"):
        read(tmp_path)
    write_result(tmp_path, "t", Envelope("t", SPEC | {"dimension": 3}, OUTPUT.tensors), {})
    with pytest.raises(BadOutput, match="another task or Spec"):
        read(tmp_path)


def test_a_failure_says_its_reason(tmp_path: Path) -> None:
    write_failure(tmp_path, "t", "OutOfMemoryError: tried to allocate 20 GiB")
    with pytest.raises(JobFailed, match="20 GiB"):
        read(tmp_path)
