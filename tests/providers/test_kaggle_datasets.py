"""What does not fit into a push: sent once, whoever dies; found by its hash; every refusal one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import JobFailed, NoCapacity, ProviderError, Rejected, TimedOut, Unreachable
from accel.core.lease import Intent, Lease
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.providers.base import JobState, SendsAhead
from accel.providers.kaggle import KaggleProvider
from accel.providers.kaggle_client import KaggleClient, KaggleCredentials
from accel.providers.kaggle_datasets import check_names
from accel.providers.kaggle_machine import RATE, T4X2
from accel.providers.kaggle_uploads import Uploads
from accel.sandbox.server import KaggleSandbox
from accel.wire import Envelope
from accel.worker.artefacts import read_result
from accel.worker.attached import ROOTS, attach, digest_of, whole
from accel.worker.bundle import Bundle

RUNTIME = Runtime.production()
PUT, START = "PutBlob", "StartBlobUpload"
CREATES = ("CreateDataset", "CreateDatasetVersion")
# in the wheel's place: a far end without a model, that answers with the sum of what it was given
JOB = """
def main(job, inputs):
    from pathlib import Path
    import json
    import numpy as np
    from accel.wire import Envelope
    from accel.worker.artefacts import write_result
    given = Envelope.from_bytes(inputs)
    total = np.array([int(given.tensors["bytes"].astype(np.int64).sum())])
    write_result(Path.cwd(), given.task_id, Envelope(given.task_id, given.spec, {"total": total}), {})
    return 0
"""
SPEC = {"stage": "embed", "model": "sum"}


def wheel() -> bytes:
    """This package, with a job that only adds up."""
    import io
    import zipfile

    from accel.worker.bundle import pack_wheel

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pack_wheel())) as ours, zipfile.ZipFile(out, "w") as made:
        for info in ours.infolist():
            job = info.filename == "accel/worker/job.py"
            made.writestr(info, JOB if job else ours.read(info), zipfile.ZIP_DEFLATED)
    return out.getvalue()


@pytest.fixture(scope="module")
def light() -> bytes:
    return wheel()


def tensors(size: int = 3 << 20, seed: int = 0) -> dict[str, Any]:
    return {"bytes": np.random.default_rng(seed).integers(0, 255, size, np.uint8)}


def bundle(folder: Path, light: bytes, task_id: str = "t", **options: Any) -> Path:
    job = {"schema": 1, "task_id": task_id}
    Bundle(job, light, Envelope(task_id, SPEC, tensors(**options)).to_bytes()).write(folder)
    return folder


def provider(sandbox: KaggleSandbox, **options: Any) -> KaggleProvider:
    usual: dict[str, Any] = {
        "credentials": KaggleCredentials(sandbox.username, sandbox.key), "runtime": RUNTIME,
        "realm": Realm.SANDBOX, "endpoint": sandbox.url, "call_s": 5.0, "poll_s": 0.02,
    }  # fmt: skip
    return KaggleProvider(**usual | options)


def intent(folder: Path, name: str = "accel-big", **changes: Any) -> Intent:
    offer = Offer("o", "kaggle", Realm.SANDBOX, T4X2, RATE, RUNTIME.now(), "test")
    return replace(Intent(f"i-{name}", "t", offer, name, 60.0, RUNTIME.now(), folder), **changes)


async def ended(kaggle: KaggleProvider, lease: Lease) -> JobState:
    async with asyncio.timeout(30):
        while True:
            progress = await kaggle.poll(lease)
            if progress.state.terminal:
                return progress.state
            await asyncio.sleep(0.02)


def test_a_large_job_runs_on_the_very_bytes_and_a_second_one_uploads_nothing(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox)
        assert isinstance(kaggle, SendsAhead)
        first = intent(bundle(tmp_path / "one", light, "t"))
        await kaggle.send_ahead(first)
        assert sandbox.requests("SaveKernel") == [], "nothing is ordered by sending ahead"
        sent = [r.sent for r in sandbox.requests(PUT)]
        assert len(sent) == 2
        assert sum(sent) > 3 << 20
        lease = await kaggle.create(first)
        assert lease == await kaggle.find(first)
        assert await ended(kaggle, lease) is JobState.DONE
        await kaggle.fetch(lease, tmp_path / "home")
        result = read_result(tmp_path / "home", task_id="t", spec=SPEC, provider="kaggle")
        assert result.output.tensors["total"][0] == int(tensors()["bytes"].astype(np.int64).sum())

        # another process, another task, the same texts: found by their hash
        again = provider(sandbox)
        lease = await again.create(intent(bundle(tmp_path / "two", light, "u"), "accel-again"))
        assert await ended(again, lease) is JobState.DONE
        assert len(sandbox.requests(PUT)) == 2
        assert len(sandbox.requests(START)) == 2
        await again.fetch(lease, tmp_path / "home2")
        read_result(tmp_path / "home2", task_id="u", spec=SPEC, provider="kaggle")

    asyncio.run(scenario())


def test_what_is_made_there_is_private_and_bears_its_hash(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    folder = bundle(tmp_path / "b", light)
    asyncio.run(provider(sandbox).send_ahead(intent(folder)))
    assert sandbox.root is not None
    found = (sandbox.root / "datasets").glob("*/dataset.json")
    made = {f.parent.name: json.loads(f.read_text()) for f in found}
    assert made.keys() == {f.stem for f in (folder / "attached").iterdir()}
    assert all(m["is_private"] for m in made.values())


def test_a_small_job_needs_no_data_set(sandbox: KaggleSandbox, tmp_path: Path, light: bytes) -> None:
    kaggle = provider(sandbox)
    small = intent(bundle(tmp_path / "b", light, size=1000))
    asyncio.run(kaggle.send_ahead(small))
    assert sandbox.requests() == []
    lease = asyncio.run(kaggle.create(small))
    large = asyncio.run(kaggle.create(intent(bundle(tmp_path / "c", light), "accel-c")))
    assert lease.ends_by < large.ends_by, "what is sent ahead takes time"


# --- uploads


FAULTS: dict[str, list[dict[str, Any]]] = {
    "503": [{"on": PUT, "kind": "http", "status": 503, "times": 3}],
    "cut off in the middle, twice": [
        {"on": PUT, "kind": "truncated"}, {"on": PUT, "kind": "truncated", "after": 2}
    ],
    "dropped": [{"on": PUT, "kind": "drop", "times": 2}],
    "answer lost": [{"on": PUT, "kind": "lost_answer", "times": 2}],
    "expired": [{"on": PUT, "kind": "http", "status": 404, "times": 2}],
    "cut off, then expired": [
        {"on": PUT, "kind": "truncated"}, {"on": PUT, "kind": "http", "status": 404}
    ],
    "create: answer lost": [{"on": "CreateDataset", "kind": "lost_answer"}],
    "create: 503": [{"on": "CreateDataset", "kind": "http", "status": 503}],
    "slow to appear": [{"on": "GetDatasetStatus", "kind": "http", "status": 404, "times": 4}],
    "processing fails once": [{"on": "CreateDataset", "kind": "corrupted"}],
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_gets_there_whatever_happens_on_the_way(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes, fault: str
) -> None:
    async def scenario() -> None:
        kaggle, big = provider(sandbox), intent(bundle(tmp_path / "b", light))
        sandbox.set_faults(*FAULTS[fault])
        lease = await kaggle.create(big)
        assert await ended(kaggle, lease) is JobState.DONE

    asyncio.run(scenario())


def test_what_was_cut_off_goes_on_where_it_stopped(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    folder = bundle(tmp_path / "b", light)
    size = sum(f.stat().st_size for f in attach(folder).files)
    sandbox.set_faults({"on": PUT, "kind": "truncated", "after": 1})
    asyncio.run(provider(sandbox).send_ahead(intent(folder)))
    announced = sum(r.sent for r in sandbox.requests(PUT))
    assert announced < size + 0.6 * (3 << 20), "half of it came the first time, and was not sent again"


def test_an_upload_that_gets_nowhere_is_unreachable_and_keeps_what_came(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    home = tmp_path / "home"
    folder = bundle(tmp_path / "b", light)
    kaggle = provider(sandbox, folder=home)
    sandbox.set_faults(
        {"on": PUT, "kind": "truncated"}, {"on": PUT, "kind": "http", "status": 503, "times": 0}
    )
    with pytest.raises(Unreachable, match="goes on from there"):
        asyncio.run(kaggle.send_ahead(intent(folder)))
    assert list(home.glob("*.json"))
    sandbox.set_faults()
    asyncio.run(kaggle.send_ahead(intent(folder)))
    assert list(home.iterdir()) == [], "what became a data set is no upload any more"


def test_secrets_of_an_upload_are_kept_from_others_and_from_every_message(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    home = tmp_path / "home"
    sandbox.set_faults({"on": PUT, "kind": "http", "status": 403, "times": 0, "text": "denied"})
    before = os.umask(0)
    try:
        with pytest.raises(Rejected) as caught:
            asyncio.run(provider(sandbox, folder=home).send_ahead(intent(bundle(tmp_path / "b", light))))
    finally:
        os.umask(before)
    (kept,) = home.iterdir()
    told = json.loads(kept.read_text())
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert told["url"].startswith(sandbox.url)
    for secret in (told["token"], told["url"]):
        assert secret not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_kaggle_datasets import RUNTIME, intent
from accel.core.offer import Realm
from accel.providers.kaggle import KaggleProvider
from accel.providers.kaggle_client import KaggleCredentials
kaggle = KaggleProvider(
    credentials=KaggleCredentials({user!r}, {key!r}), runtime=RUNTIME, realm=Realm.SANDBOX,
    endpoint={url!r}, folder=Path({home!r}), poll_s=0.02, call_s=60.0,
)
asyncio.run(kaggle.send_ahead(intent(Path({bundle!r}))))
"""


def test_kill_9_in_the_middle_of_an_upload_loses_none_of_it(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    folder, home = bundle(tmp_path / "b", light), tmp_path / "home"
    # the second file is cut in half; then nothing answers any more, and the process is killed
    sandbox.set_faults(
        {"on": PUT, "kind": "truncated", "after": 1}, {"on": PUT, "kind": "hang", "times": 0, "after": 2}
    )
    code = KILLED.format(
        tests=str(Path(__file__).parent), user=sandbox.username, key=sandbox.key, url=sandbox.url,
        home=str(home), bundle=str(folder),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        for _ in range(600):
            if len(sandbox.requests(PUT)) >= 2 and list(home.glob("*.json")):
                break
            threading.Event().wait(0.05)
        else:
            raise AssertionError("it never came to the second file")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (state,) = home.glob("*.json")
    size = json.loads(state.read_text())["size"]
    sandbox.set_faults()
    before = len(sandbox.requests(PUT))
    asyncio.run(provider(sandbox, folder=home).send_ahead(intent(folder)))
    after = [r.sent for r in sandbox.requests(PUT)[before:]]
    assert max(after) < 0.7 * size, "the half that was there was not sent again"
    assert len(sandbox.requests(START)) == 2


# --- refusals


@pytest.mark.parametrize(
    ("slug", "title", "words"),
    [
        ("short", "long enough", "'short' is no slug of a data set: 5 characters, Kaggle takes 6 to 50"),
        ("a" * 51, "long enough", "51 characters"),
        ("long-enough", "tiny", "'tiny' is no title"),
        ("long-enough", "t" * 51, "no title"),
        ("Long-Enough", "long enough", "lower-case"),
        ("two--dashes", "long enough", "single dashes"),
    ],
)  # fmt: skip
def test_a_name_that_kaggle_would_refuse_is_one_clear_line(slug: str, title: str, words: str) -> None:
    with pytest.raises(Rejected, match=words) as caught:
        check_names(slug, title)
    assert "\n" not in str(caught.value)


@given(st.binary(min_size=1, max_size=32))
def test_our_own_names_are_never_refused(data: bytes) -> None:
    import hashlib

    name = f"accel-{hashlib.sha256(data).hexdigest()[:32]}"
    check_names(name, name)


def test_more_than_the_limit_is_refused_before_anything_is_sent_and_kept(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    folder = bundle(tmp_path / "b", light)
    kaggle = provider(sandbox, largest=2 << 20)
    with pytest.raises(Rejected, match=r"over Kaggle's limit of 2,097,152\. Push fewer") as caught:
        asyncio.run(kaggle.create(intent(folder)))
    assert "\n" not in str(caught.value)
    sent = {r.call for r in sandbox.requests()}
    assert "SaveKernel" not in sent
    assert sum(r.sent for r in sandbox.requests(PUT)) < 2 << 20, "the package fits; the inputs were not sent"
    assert Bundle.open(folder).inputs, "the work is kept"


def test_a_size_that_only_kaggle_refuses_ends_in_one_line(tmp_path: Path, light: bytes) -> None:
    with KaggleSandbox(time_scale=10_000, largest=1 << 20) as sandbox:
        folder = bundle(tmp_path / "b", light)
        with pytest.raises(Rejected, match=r"did not process the data set accel-[0-9a-f]{32}: FAILED"):
            asyncio.run(provider(sandbox).create(intent(folder)))
        assert len(sandbox.requests("CreateDatasetVersion")) == 1, "tried once more, as a new version"
        assert sandbox.requests("SaveKernel") == []


def test_one_that_is_never_ready_times_out(sandbox: KaggleSandbox, tmp_path: Path, light: bytes) -> None:
    sandbox.set_faults({"on": "CreateDataset", "kind": "cold_start", "times": 0})
    kaggle = provider(sandbox, ready_s=0.3)
    with pytest.raises(TimedOut, match=r"not ready within 0 s \(NOT_YET_PERSISTED"):
        asyncio.run(kaggle.create(intent(bundle(tmp_path / "b", light))))


def test_one_that_never_appears_times_out_too(sandbox: KaggleSandbox, tmp_path: Path, light: bytes) -> None:
    """Private space that is used up: Kaggle says yes, and nothing is there (kaggle-cli issue 284)."""
    sandbox.set_faults({"on": "CreateDataset", "kind": "odd_body", "times": 0, "text": '{"status": "ok"}'})
    with pytest.raises(TimedOut, match="not shown"):
        asyncio.run(provider(sandbox, ready_s=0.3).create(intent(bundle(tmp_path / "b", light))))


def test_a_refusal_in_kaggles_words(sandbox: KaggleSandbox, tmp_path: Path, light: bytes) -> None:
    told = json.dumps({"status": "error", "error": f"no more of {sandbox.key}"})
    sandbox.set_faults({"on": "CreateDataset", "kind": "odd_body", "text": told})
    with pytest.raises(Rejected, match=r"refused the data set accel-\w+: no more of \*\*\* The job and its"):
        asyncio.run(provider(sandbox).create(intent(bundle(tmp_path / "b", light))))


def test_two_processes_that_send_the_same_share_one_data_set(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    folder = bundle(tmp_path / "b", light)
    attach(folder)

    async def both() -> None:
        await asyncio.gather(*(provider(sandbox).send_ahead(intent(folder)) for _ in range(2)))

    asyncio.run(both())
    assert sandbox.root is not None
    assert len(list((sandbox.root / "datasets").iterdir())) == 2


def test_a_data_set_that_is_gone_at_the_push_is_told_and_sent_again(
    sandbox: KaggleSandbox, tmp_path: Path, light: bytes
) -> None:
    import shutil

    async def scenario() -> None:
        kaggle, big = provider(sandbox), intent(bundle(tmp_path / "b", light))
        await kaggle.send_ahead(big)
        assert sandbox.root is not None
        for made in (sandbox.root / "datasets").iterdir():
            shutil.rmtree(made)
        with pytest.raises(JobFailed, match="invalidDatasetSources"):
            await kaggle.create(big)
        lease = await kaggle.find(big)
        assert lease is not None, "it runs, without its inputs: whoever asked for it has to end it"
        assert await ended(kaggle, lease) is JobState.FAILED
        fetched = await kaggle.fetch(lease, tmp_path / "out")
        assert "is not here" in fetched.log
        lease = await kaggle.create(replace(big, id="i-2", name="accel-second"))
        assert await ended(kaggle, lease) is JobState.DONE

    asyncio.run(scenario())


def test_an_order_that_is_old_is_made_anew(sandbox: KaggleSandbox, tmp_path: Path, light: bytes) -> None:
    """Else its session could run on after the time that its lease says it ends by."""
    from datetime import timedelta

    old = intent(bundle(tmp_path / "b", light, size=10), created_at=RUNTIME.now() - timedelta(hours=2))
    with pytest.raises(NoCapacity, match="made anew"):
        asyncio.run(provider(sandbox).create(old))
    assert sandbox.requests("SaveKernel") == []


def test_nobody_who_was_cancelled_pushes_later(sandbox: KaggleSandbox, tmp_path: Path, light: bytes) -> None:
    async def scenario() -> None:
        sandbox.set_faults({"on": PUT, "kind": "delay", "seconds": 2.0, "times": 0})
        creating = asyncio.ensure_future(provider(sandbox).create(intent(bundle(tmp_path / "b", light))))
        await asyncio.sleep(1.0)
        assert sandbox.requests(START)
        creating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await creating
        await asyncio.sleep(2.0)
        assert sandbox.requests("SaveKernel") == []
        assert sum(len(sandbox.requests(c)) for c in CREATES) == 0

    asyncio.run(scenario())


def test_a_slug_in_use_is_polled_by_its_version(sandbox: KaggleSandbox) -> None:
    async def scenario() -> None:
        quick = provider(sandbox, render=lambda _: ("open('a.txt', 'w').write('1')", False))
        first = await quick.create(intent(Path("x")))
        assert await ended(quick, first) is JobState.DONE
        broken = provider(sandbox, render=lambda _: ("raise SystemExit(3)", False))
        second = await broken.create(intent(Path("x")))
        assert second.remote_id == f"{first.remote_id}/v2"
        assert await ended(broken, second) is JobState.FAILED
        assert (await broken.poll(replace(second, remote_id=f"{first.remote_id}/v1"))).state is JobState.DONE

    asyncio.run(scenario())


# --- the parts


def test_attached_files_do_not_depend_on_the_task(tmp_path: Path) -> None:
    made = [attach(bundle(tmp_path / n, b"wheel", n, size=10)) for n in ("one", "two")]
    assert [f.name for f in made[0].files] == [f.name for f in made[1].files]
    assert made[0].script != made[1].script
    assert digest_of(made[0].files[1])[:32] in made[0].files[1].name
    data = whole({"task_id": "one", "spec": SPEC, "meta": {"a": 1}}, str(made[0].files[1]))
    back = Envelope.from_bytes(data)
    assert (back.task_id, dict(back.spec), dict(back.meta)) == ("one", SPEC, {"a": 1})
    assert np.array_equal(back.tensors["bytes"], tensors(10)["bytes"])


def test_the_far_end_refuses_an_input_that_was_altered(tmp_path: Path, light: bytes) -> None:
    parts = attach(bundle(tmp_path / "b", light, size=1000))
    working, given = tmp_path / "working", tmp_path / "input" / "deep" / "er"
    working.mkdir()
    given.mkdir(parents=True)
    assert "../input" in ROOTS

    def run() -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(parts.script)
        return subprocess.run(
            [sys.executable, "-I", str(tmp_path / "script.py")], cwd=working, text=True, capture_output=True,
            check=False,
        )  # fmt: skip

    assert "is not here" in run().stderr
    for file in parts.files:
        (given / file.name).write_bytes(file.read_bytes())
    done = run()
    assert done.returncode == 0, done.stderr
    data = bytearray((given / parts.files[1].name).read_bytes())
    data[-1] ^= 1
    (given / parts.files[1].name).write_bytes(data)
    assert "is damaged" in run().stderr


def test_this_machine_runs_a_bundle_of_any_size(tmp_path: Path, light: bytes) -> None:
    from accel.providers.local import LocalProvider
    from accel.worker.engine import Worker

    async def scenario() -> None:
        local = LocalProvider(Realm.SANDBOX, Worker(), tmp_path / "[odd] jobs", RUNTIME)
        lease = await local.create(intent(bundle(tmp_path / "[odd] bundle", light)))
        await local.start(lease)
        async with asyncio.timeout(60):
            while not (await local.poll(lease)).state.terminal:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)
        await local.fetch(lease, tmp_path / "home")
        result = read_result(tmp_path / "home", task_id="t", spec=SPEC, provider="local")
        assert result.output.tensors["total"][0] == int(tensors()["bytes"].astype(np.int64).sum())

    asyncio.run(scenario())


class Wire(KaggleClient):
    """A store that answers from a list, for what a real one would do once in a year."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        super().__init__(KaggleCredentials("u", "k"), "http://127.0.0.1:9", 1.0)
        self.answers, self.seen = list(answers), list[dict[str, str]]()

    def call(self, ask: Any) -> Any:
        from kagglesdk.blobs.types.blob_api_service import ApiStartBlobUploadResponse

        answer = ApiStartBlobUploadResponse()
        answer.token, answer.create_url = "token", "http://127.0.0.1:9/x"
        return answer, {}

    def put(self, url: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
        self.seen.append(headers)
        return self.answers.pop(0)


@pytest.mark.parametrize("odd", ["", "bytes=5-9", "bytes=0-", "rubbish", "bytes=0-999999999999999999999"])
def test_an_odd_range_starts_over_and_is_not_believed(tmp_path: Path, odd: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"0123456789")
    wire = Wire((308, odd), (200, ""))
    assert Uploads(wire, None, lambda: 0.0, 0.0).send(file, "d" * 64, threading.Event()) == "token"
    assert wire.seen == [{}, {}]


def test_an_upload_that_expires_each_time_ends(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"0123456789")
    with pytest.raises(Unreachable, match="expire at once"):
        Uploads(Wire(*[(404, "")] * 9), None, lambda: 0.0, 0.0).send(file, "d" * 64, threading.Event())
    for status, error in ((400, Rejected), (413, Rejected)):
        with pytest.raises(error):
            Uploads(Wire((status, "")), None, lambda: 0.0, 0.0).send(file, "d" * 64, threading.Event())


def test_an_upload_older_than_six_days_is_begun_anew(tmp_path: Path) -> None:
    file, now = tmp_path / "f", [0.0]
    file.write_bytes(b"0123456789")
    uploads = Uploads(Wire(*[(503, "")] * 5), tmp_path / "home", lambda: now[0], 0.0)
    with pytest.raises(ProviderError):
        uploads.send(file, "d" * 64, threading.Event())
    assert uploads._load("d" * 64, 10) is not None
    assert uploads._load("d" * 64, 11) is None
    now[0] = 6 * 86400.0
    assert uploads._load("d" * 64, 10) is None
