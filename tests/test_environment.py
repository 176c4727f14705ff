"""Facts about the host: read when asked, from what the host says, and never a crash over an odd answer."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from accel import environment
from accel.core.errors import SettingsError
from accel.core.offer import CPU, Gpu
from accel.environment import GpuLoad, Platform

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    environment.gpu.cache_clear()
    yield
    environment.gpu.cache_clear()


def test_platforms_are_told_by_their_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    assert environment.platform() is Platform.LOCAL
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-2026")
    assert environment.platform() is Platform.COLAB
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert environment.platform() is Platform.KAGGLE


def test_the_folder_is_made_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path / "a" / "b"))
    assert environment.workdir() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    monkeypatch.delenv("ACCEL_HOME")
    assert str(environment.workdir()).startswith(str(Path.home()))


def test_a_folder_that_cannot_be_made_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path / "file" / "x"))
    with pytest.raises(SettingsError, match="ACCEL_HOME"):
        environment.workdir()


def test_secrets_come_from_the_environment_then_from_the_platforms_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert environment.secret("MY_KEY") is None
    store = ModuleType("kaggle_secrets")

    class Client:
        def get_secret(self, name: str) -> str:
            if name != "MY_KEY":
                raise RuntimeError("no such secret, as the store says it")
            return "from the store"

    store.UserSecretsClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kaggle_secrets", store)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert environment.secret("MY_KEY") == "from the store"
    assert environment.secret("OTHER") is None
    monkeypatch.setenv("MY_KEY", "from outside")
    assert environment.secret("MY_KEY") == "from outside"


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'Tesla T4, 15360, 7.5'; echo 'Tesla T4, 15360, 7.5'", Gpu("Tesla T4", 2, 15360 << 20, 75)),
        ("echo 'NVIDIA B200, 183359, 10.0'", Gpu("NVIDIA B200", 1, 183359 << 20, 100)),
        ("echo 'NVIDIA GB10, [N/A], 12.1'", CPU),
        ("echo 'No devices were found'; exit 6", CPU), ("exit 9", CPU), ("true", CPU),
    ],
)  # fmt: skip
def test_the_gpu_is_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, expected: Gpu
) -> None:
    fake_smi(tmp_path, monkeypatch, script)
    assert environment.gpu() == expected


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.gpu() is CPU


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'Tesla T4, 87, 1234, 15360'", (GpuLoad("Tesla T4", 0.87, 1234 << 20, 15360 << 20),)),
        ("echo 'A, 0, 1, 2'; echo 'B, 100, 3, 4'",
         (GpuLoad("A", 0.0, 1 << 20, 2 << 20), GpuLoad("B", 1.0, 3 << 20, 4 << 20))),
        # a slice of a GPU (MIG) has no figure of its own
        ("echo 'NVIDIA H200, [N/A], 5, 143771'", (GpuLoad("NVIDIA H200", None, 5 << 20, 143771 << 20),)),
        ("echo 'Odd, name, 3, 4, 5'", (GpuLoad("Odd, name", 0.03, 4 << 20, 5 << 20),)),
        ("echo 'No devices were found'; exit 6", ()), ("echo nonsense", ()), ("true", ()),
    ],
)  # fmt: skip
def test_how_busy_each_gpu_is_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, expected: tuple[GpuLoad, ...]
) -> None:
    fake_smi(tmp_path, monkeypatch, script)
    assert environment.gpu_load() == expected


def test_how_busy_is_asked_again_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_smi(tmp_path, monkeypatch, f"cat {tmp_path}/now")
    for busy in (10, 90):
        (tmp_path / "now").write_text(f"T4, {busy}, 1, 2\n")
        assert environment.gpu_load()[0].busy == busy / 100


def test_an_environment_without_secrets_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_KEY", "hf_token", "AWS_SECRET_ACCESS", "PGPASSWORD", "ACCEL_ALERT_WEBHOOK"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("LANGUAGE", "en")
    kept = environment.without_secrets()
    assert "s3cret" not in kept.values() and kept["LANGUAGE"] == "en" and "PATH" in kept


def test_provenance_says_where_with_what_and_when() -> None:
    found = environment.provenance(NOW)
    assert found.measured_at == NOW
    assert found.device
    assert found.cores >= 1
    assert found.packages["numpy"]
    assert found.commit


def test_outside_a_checkout_the_commit_is_a_hash_of_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no git to ask
    environment.commit.cache_clear()
    try:
        found = environment.commit()
        assert found.startswith("files:")
        environment.commit.cache_clear()
        assert environment.commit() == found
    finally:
        environment.commit.cache_clear()
