"""The unmodified official command line drives the sandbox: a second reading of the protocol, not ours.

It runs in its own environment under .venv-conformance/kaggle (made here with pip if it is missing), with
a home folder of its own and no KAGGLE_ variable but those named. ``KAGGLE_API_ENVIRONMENT=LOCALHOST``
sends it to http://localhost (kagglesdk 0.1.37, kaggle_env.py:24-50); ``http_proxy`` brings it from there
to the sandbox's port. Nothing of it is patched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accel.experiments.kernels import build_kernels, kernels_folder
from accel.sandbox.server import KaggleSandbox
from accel.wire import Envelope
from accel.worker.artefacts import read_result

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

ENVIRONMENT = Path(__file__).parents[2] / ".venv-conformance" / "kaggle"
# six: kaggle 2.2.4 imports it without declaring it (kaggle/models/upload_file.py:22)
WANTED = ("kaggle>=2.2.4,<2.2.5", "six")
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def program() -> Path:
    kaggle = ENVIRONMENT / "bin" / "kaggle"
    if not kaggle.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, timeout=120)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        made = subprocess.run([*pip, *WANTED], capture_output=True, text=True, timeout=240)
        if made.returncode:
            pytest.skip(f"the official command line cannot be installed: {made.stderr[-200:]}")
    return kaggle


@pytest.fixture(scope="module")
def sandbox() -> Iterator[KaggleSandbox]:
    with KaggleSandbox(time_scale=300) as running:
        yield running


@pytest.fixture
def cli(program: Path, sandbox: KaggleSandbox, tmp_path: Path) -> Cli:
    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(tmp_path),
            **sandbox.describe()["official_cli_env"], **variables,
        }  # fmt: skip
        environment = {name: value for name, value in environment.items() if value}
        return subprocess.run(
            [str(program), *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip

    return run


@pytest.fixture
def push(cli: Cli, sandbox: KaggleSandbox, tmp_path: Path) -> Callable[..., str]:
    def run(slug: str, code: str, **metadata: object) -> str:
        folder = tmp_path / slug
        folder.mkdir()
        (folder / "job.py").write_text(code)
        described = {
            "id": f"{sandbox.username}/{slug}", "title": slug, "code_file": "job.py",
            "language": "python", "kernel_type": "script", "is_private": True, "enable_gpu": True,
            "enable_internet": False, **metadata,
        }  # fmt: skip
        (folder / "kernel-metadata.json").write_text(json.dumps(described))
        done = cli("kernels", "push", "-p", str(folder), "--timeout", "120")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def wait_for(cli: Cli, kernel: str, *, until: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = cli("kernels", "status", kernel)
        assert done.returncode == 0, done.stdout + done.stderr
        if until in done.stdout or "ERROR" in done.stdout:
            return done.stdout
    raise AssertionError(f"{kernel} was not {until} within 60 s: {done.stdout}")


def test_it_is_the_version_that_was_read(program: Path, cli: Cli) -> None:
    assert "2.2.4" in cli("--version").stdout


def test_push_status_two_pages_of_output_and_log(
    cli: Cli, push: Callable[..., str], sandbox: KaggleSandbox, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path\n"
        "for i in range(25):\n"
        "    Path(f'part-{i:02}.bin').write_bytes(bytes([i]) * (i + 1))\n"
        "print('twenty-five files')\n"
    )
    before = len(sandbox.requests("ListKernelSessionOutput"))
    assert "version 1 successfully pushed" in push("accel-cli-pages", code)
    kernel = f"{sandbox.username}/accel-cli-pages"
    assert "COMPLETE" in wait_for(cli, kernel, until="COMPLETE")
    into = tmp_path / "out"
    done = cli("kernels", "output", kernel, "-p", str(into), "--page-size", "20")
    assert done.returncode == 0, done.stderr
    assert len(sandbox.requests("ListKernelSessionOutput")) - before == 2  # it asked page by page
    for i in range(25):
        assert (into / f"part-{i:02}.bin").read_bytes() == bytes([i]) * (i + 1)
    events = json.loads((into / "accel-cli-pages.log").read_text())
    assert "".join(e["data"] for e in events if e["stream_name"] == "stdout") == "twenty-five files\n"
    assert "twenty-five files" in cli("kernels", "logs", kernel).stdout


def test_logs_follow_a_running_session_to_its_end(
    cli: Cli, push: Callable[..., str], sandbox: KaggleSandbox
) -> None:
    code = "import time\nfor i in range(4):\n    print('line', i, flush=True); time.sleep(0.4)\n"
    push("accel-cli-follow", code)
    done = cli("kernels", "logs", "--follow", f"{sandbox.username}/accel-cli-follow")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line] == [f"line {i}" for i in range(4)]
    assert sandbox.requests("Logs")[-1].status == 200


def test_quota_shows_what_the_sessions_took(
    cli: Cli, push: Callable[..., str], sandbox: KaggleSandbox
) -> None:
    kernel = f"{sandbox.username}/accel-cli-quota"

    def used() -> float:
        done = cli("quota", "--csv")
        assert done.returncode == 0, done.stderr
        rows = [line.split(",") for line in done.stdout.splitlines() if line.startswith("GPU")]
        assert rows[0][3] == "30.00h"
        return float(rows[0][1].removesuffix("h"))

    before = used()
    push("accel-cli-quota", "print('short')")
    wait_for(cli, kernel, until="COMPLETE")
    # a session is charged its nominal cold start (60 s) and its script's seconds: 0.02 h, rounded
    assert 0.01 <= round(used() - before, 2) <= 0.03


@pytest.fixture
def dataset(tmp_path: Path, sandbox: KaggleSandbox) -> Callable[..., Path]:
    def make(slug: str, files: dict[str, bytes], **metadata: object) -> Path:
        folder = tmp_path / slug
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        described = {
            "id": f"{sandbox.username}/{slug}", "title": slug, "licenses": [{"name": "other"}], **metadata,
        }  # fmt: skip
        (folder / "dataset-metadata.json").write_text(json.dumps(described))
        return folder

    return make


def dataset_state(cli: Cli, ref: str) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done = cli("datasets", "status", ref)
        assert done.returncode == 0, done.stdout + done.stderr
        state = done.stdout.strip()
        if state in ("ready", "failed"):
            return state
    raise AssertionError(f"{ref} is still {state}")


def test_a_dataset_is_created_versioned_and_read_by_a_kernel(
    cli: Cli, dataset: Callable[..., Path], push: Callable[..., str], sandbox: KaggleSandbox
) -> None:
    ref = f"{sandbox.username}/accel-cli-data"
    folder = dataset("accel-cli-data", {"a.bin": bytes(range(256)) * 5000, "b.txt": b"two"})
    done = cli("datasets", "create", "-p", str(folder))
    assert "Your private Dataset is being created" in done.stdout, done.stdout + done.stderr
    assert dataset_state(cli, ref) == "ready"
    again = cli("datasets", "create", "-p", str(folder))
    assert "is already in use by a dataset" in again.stdout
    assert {"a.bin", "b.txt"} <= set(cli("datasets", "files", ref).stdout.split())
    assert ref in cli("datasets", "list", "--mine", "--csv").stdout
    (folder / "b.txt").write_bytes(b"three")
    done = cli("datasets", "version", "-p", str(folder), "-m", "again")
    assert "Dataset version is being created" in done.stdout, done.stdout + done.stderr
    assert dataset_state(cli, ref) == "ready"
    told = cli("datasets", "status", ref, "--format", "json(current_version_number)")
    assert json.loads(told.stdout) == {"current_version_number": 2}, told.stdout + told.stderr
    code = (
        "import glob\n"
        "for name in ('a.bin', 'b.txt'):\n"
        "    (path,) = glob.glob('../input/**/' + name, recursive=True)\n"
        "    print(name, len(open(path, 'rb').read()))\n"
    )
    words = push("accel-cli-reads", code, dataset_sources=[ref, f"{sandbox.username}/nobody-made-this"])
    assert "nobody-made-this" in words, "what Kaggle does not know it names, and goes on"
    kernel = f"{sandbox.username}/accel-cli-reads"
    assert "COMPLETE" in wait_for(cli, kernel, until="COMPLETE")
    log = cli("kernels", "logs", kernel).stdout
    assert f"a.bin {256 * 5000}" in log
    assert "b.txt 5" in log, "the second version"


def test_an_upload_of_the_official_client_resumes_too(
    cli: Cli, dataset: Callable[..., Path], sandbox: KaggleSandbox
) -> None:
    folder = dataset("accel-cli-resumes", {"a.bin": os.urandom(3 << 20)})
    before = len(sandbox.requests("PutBlob"))
    sandbox.set_faults({"on": "PutBlob", "kind": "http", "status": 503})
    try:
        done = cli("datasets", "create", "-p", str(folder))
    finally:
        sandbox.set_faults()
    assert "Your private Dataset is being created" in done.stdout, done.stdout + done.stderr
    assert [r.status for r in sandbox.requests("PutBlob")[before:]][-1] == 200
    assert dataset_state(cli, f"{sandbox.username}/accel-cli-resumes") == "ready"


def test_what_the_client_itself_refuses_we_refuse_in_the_same_cases(
    cli: Cli, dataset: Callable[..., Path], sandbox: KaggleSandbox
) -> None:
    from accel.core.errors import Rejected
    from accel.providers.kaggle_datasets import check_names

    for slug, title in (("short", "long enough"), ("long-enough", "tiny"), ("s" * 51, "long enough")):
        before = len(sandbox.requests("CreateDataset"))
        done = cli("datasets", "create", "-p", str(dataset(slug, {"a.txt": b"a"}, title=title)))
        assert "must be between 6 and 50 characters" in done.stdout + done.stderr
        assert len(sandbox.requests("CreateDataset")) == before
        with pytest.raises(Rejected):
            check_names(slug, title)


def test_a_failing_script_is_an_error_with_its_reason(
    cli: Cli, push: Callable[..., str], sandbox: KaggleSandbox
) -> None:
    push("accel-cli-fails", "raise SystemExit(3)")
    told = wait_for(cli, f"{sandbox.username}/accel-cli-fails", until="ERROR")
    assert "ERROR" in told
    assert "exit code 3" in told


def test_a_refused_push_prints_the_error_and_exits_zero(
    push: Callable[..., str], sandbox: KaggleSandbox
) -> None:
    sandbox.set_faults({"on": "SaveKernel", "kind": "session_count"})
    words = push("accel-cli-refused", "print('never')")
    assert "Kernel push error: Maximum batch GPU session count of 2 reached." in words


def test_own_kernels_are_listed_and_deleted(
    cli: Cli, push: Callable[..., str], sandbox: KaggleSandbox
) -> None:
    kernel = f"{sandbox.username}/accel-cli-gone"
    push("accel-cli-gone", "print('here')")
    assert kernel in cli("kernels", "list", "--mine", "--csv").stdout
    wait_for(cli, kernel, until="COMPLETE")
    done = cli("kernels", "delete", "-y", kernel)
    assert "deleted successfully" in done.stdout, done.stderr
    assert kernel not in cli("kernels", "list", "--mine", "--csv").stdout
    gone = cli("kernels", "status", kernel)
    assert "kernels.get" in gone.stdout + gone.stderr


def test_a_token_signs_in_too(cli: Cli, sandbox: KaggleSandbox) -> None:
    done = cli("quota", KAGGLE_API_TOKEN=sandbox.token, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert done.returncode == 0, done.stderr
    assert "30.00h" in done.stdout
    assert sandbox.requests("IntrospectToken")


def test_a_wrong_key_is_turned_away(cli: Cli, sandbox: KaggleSandbox) -> None:
    done = cli("quota", KAGGLE_KEY="0" * 32)
    assert done.returncode == 1
    assert "Authentication required to call the Kaggle API." in done.stdout  # its words for a 401
    assert sandbox.requests("GetAcceleratorQuotaStatistics")[-1].status == 401


def test_it_pushes_what_make_kernels_made_and_the_result_verifies(
    cli: Cli, sandbox: KaggleSandbox, tmp_path: Path
) -> None:
    """The committed kernel itself, with less to do: only its three sizes are made smaller."""
    source = tmp_path / "kaggle_kernels" / "embed_benchmark"
    shutil.copytree(kernels_folder() / "embed_benchmark", source)
    script = source / "embed_benchmark.py"
    small = script.read_text()
    for asked, little in (('"1024"', '"4"'), ('"[1, 8, 64, 256, 1024]"', '"[1, 2]"'), ('"10"', '"2"')):
        assert asked in small
        small = small.replace(asked, little)
    script.write_text(small)
    folder, _ = build_kernels(sandbox.username, tmp_path / "build", tmp_path / "kaggle_kernels")
    done = cli("kernels", "push", "-p", str(folder), "--timeout", "300")
    assert "successfully pushed" in done.stdout, done.stdout + done.stderr
    kernel = f"{sandbox.username}/{folder.name}"
    assert "COMPLETE" in wait_for(cli, kernel, until="COMPLETE")
    into = tmp_path / "out"
    assert cli("kernels", "output", kernel, "-p", str(into)).returncode == 0
    manifest = json.loads((into / "result.json").read_text())
    spec = load_spec(into)
    result = read_result(into, task_id=manifest["task_id"], spec=spec, provider="kaggle")
    assert result.output.tensors["vectors"].shape == (4, 384)
    assert len(result.output.tensors["seconds_2"]) == 2


def load_spec(folder: Path) -> dict[str, object]:
    return dict(Envelope.from_bytes((folder / "result.safetensors").read_bytes()).spec)
