"""What is Kaggle's own: its refusals, its silence about new kernels, its traps, its odd files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import (
    BadOutput,
    JobFailed,
    NoCapacity,
    ProviderError,
    QuotaExhausted,
    Rejected,
    SettingsError,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Intent, Lease, Released, Unknown
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Numerics, Spec, Stage
from accel.providers.base import JobState, Provider, RunsBatch, ServesLive
from accel.providers.kaggle import KaggleProvider
from accel.providers.kaggle_calls import flat_name, log_text
from accel.providers.kaggle_client import KaggleCredentials
from accel.providers.kaggle_machine import RATE, T4X2
from accel.providers.transport import parse_retry_after
from accel.sandbox.server import KaggleSandbox
from accel.wire import Envelope
from accel.worker.artefacts import read_result
from accel.worker.bundle import Bundle

RUNTIME = Runtime.production()
BATCH = Need(Stage.EMBED, Lane.BATCH)
QUICK = "open('result.json', 'w').write('{}')"


def provider(sandbox: KaggleSandbox, code: str = QUICK, **options: Any) -> KaggleProvider:
    options = {
        "credentials": KaggleCredentials(sandbox.username, sandbox.key), "runtime": RUNTIME,
        "realm": Realm.SANDBOX, "endpoint": sandbox.url, "render": lambda _: (code, False),
        "call_s": 5.0, **options,
    }  # fmt: skip
    return KaggleProvider(**options)


def intent(name: str = "accel-one", **changes: Any) -> Intent:
    offer = Offer("o", "kaggle", Realm.SANDBOX, T4X2, RATE, RUNTIME.now(), "test")
    made = Intent(f"i-{name}", "t", offer, name, 60.0, RUNTIME.now(), Path("bundle"))
    return replace(made, **changes)


async def ended(kaggle: KaggleProvider, lease: Lease) -> JobState:
    async with asyncio.timeout(30):
        while True:
            progress = await kaggle.poll(lease)
            if progress.state.terminal:
                return progress.state
            await asyncio.sleep(0.02)


async def job(kaggle: KaggleProvider, name: str = "accel-one") -> Lease:
    lease = await kaggle.create(intent(name))
    assert await ended(kaggle, lease) is JobState.DONE
    return lease


# --- what it is


def test_it_is_a_batch_provider_and_cannot_serve(sandbox: KaggleSandbox) -> None:
    kaggle = provider(sandbox)
    assert isinstance(kaggle, Provider)
    assert isinstance(kaggle, RunsBatch)
    assert not isinstance(kaggle, ServesLive)


@pytest.mark.parametrize(
    ("realm", "endpoint"),
    [
        (Realm.REAL, "http://127.0.0.1:1"), (Realm.SANDBOX, None), (Realm.SIMULATED, None),
        (Realm.SANDBOX, "https://api.example.org"),
    ],
)  # fmt: skip
def test_a_realm_cannot_be_mislabelled(realm: Realm, endpoint: str | None) -> None:
    with pytest.raises(SettingsError):
        KaggleProvider(
            credentials=KaggleCredentials("u", "k"), runtime=RUNTIME, realm=realm, endpoint=endpoint
        )


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (replace(BATCH, numerics=Numerics.BF16), "bf16"),
        (replace(BATCH, numerics=Numerics.TF32), "tf32"),
        (replace(BATCH, capability=80), "8.0"),
        (replace(BATCH, vram_bytes=40 << 30), "15 GiB"),
        (replace(BATCH, private_data=True), "two months"),
        (replace(BATCH, only=frozenset({"local"})), "allowed"),
        (replace(BATCH, index="abc"), "index"),
        (replace(BATCH, lane=Lane.LIVE), "third party"),
    ],
)
def test_an_unfit_need_is_told_without_a_request(
    sandbox: KaggleSandbox, need: Need, words: str
) -> None:
    found = asyncio.run(provider(sandbox).probe(need))
    assert isinstance(found, Unfit)
    assert words in found.reason
    assert sandbox.requests() == []


def test_private_data_goes_once_its_term_is_accepted(sandbox: KaggleSandbox) -> None:
    kaggle = provider(sandbox, accepted_terms={"kaggle/private data"})
    assert isinstance(asyncio.run(kaggle.probe(replace(BATCH, private_data=True))), Offer)


def test_without_credentials_the_reason_names_the_variables(sandbox: KaggleSandbox) -> None:
    found = asyncio.run(provider(sandbox, credentials=KaggleCredentials("u")).probe(BATCH))
    assert isinstance(found, Unfit)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        assert name in found.reason


# --- credentials


def test_nothing_of_the_environment_or_the_home_folder_signs_in(
    sandbox: KaggleSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # kagglesdk alone would prefer each of these to the pair it is given
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "access_token").write_text("KGAT_wrong_too")
    (tmp_path / ".kaggle" / "kaggle.json").write_text('{"username": "other", "key": "wrong"}')
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password wrong\n")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "STAGING")
    before = dict(os.environ)
    assert isinstance(asyncio.run(provider(sandbox).probe(BATCH)), Offer)
    assert dict(os.environ) == before
    wrong = provider(sandbox, credentials=KaggleCredentials(sandbox.username, "wrong"))
    (tmp_path / ".kaggle" / "kaggle.json").write_text(
        json.dumps({"username": sandbox.username, "key": sandbox.key})
    )
    found = asyncio.run(wrong.probe(BATCH))
    assert isinstance(found, Unfit)
    assert "401" in found.reason


def test_a_token_tells_its_owner_once(sandbox: KaggleSandbox, tmp_path: Path) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox, credentials=KaggleCredentials(token=sandbox.token))
        lease = await job(kaggle)
        assert lease.remote_id == f"{sandbox.username}/accel-one"
        assert (await kaggle.fetch(lease, tmp_path)).files
        assert len(sandbox.requests("IntrospectToken")) == 1

    asyncio.run(scenario())


def test_a_wrong_token_is_unauthorised_and_not_shown(sandbox: KaggleSandbox) -> None:
    token = "KGAT_0123456789abcdef"
    kaggle = provider(sandbox, credentials=KaggleCredentials(token=token))
    with pytest.raises(Unauthorised) as caught:
        asyncio.run(kaggle.create(intent()))
    assert token not in str(caught.value)


def test_a_server_that_repeats_the_key_does_not_make_us_repeat_it(sandbox: KaggleSandbox) -> None:
    echo = f"bad key {sandbox.key} for you"
    sandbox.set_faults(
        {"on": "SaveKernel", "kind": "http", "status": 400, "text": echo},
        {"on": "SaveKernel", "kind": "refuse_push", "text": echo},
    )
    kaggle = provider(sandbox)
    for _ in range(2):
        with pytest.raises(Rejected) as caught:
            asyncio.run(kaggle.create(intent()))
        assert "bad key *** for you" in str(caught.value)


# --- pushing


def test_what_is_pushed(sandbox: KaggleSandbox) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox, "print('seen')")
        await job(kaggle)
        assert sandbox.root is not None
        pushed = json.loads((sandbox.root / "kernels/accel-one/v1/session.json").read_text())
        assert pushed["gpu"] is True
        assert pushed["is_private"] is True
        assert pushed["internet"] is False
        assert pushed["timeout_s"] == 60

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "accel-UPPER"}, {"name": "accel-"}, {"name": "accel-" + "x" * 45}, {"name": "other-one"},
        {"name": "accel-a/../b"}, {"lifetime_s": 12 * 3600 + 1}, {"lifetime_s": 0.0}, {"bundle": None},
    ],
)  # fmt: skip
def test_an_impossible_intent_is_rejected_without_a_request(
    sandbox: KaggleSandbox, changes: dict[str, Any]
) -> None:
    with pytest.raises(Rejected):
        asyncio.run(provider(sandbox).create(intent(**changes)))
    assert sandbox.requests() == []


def test_a_third_gpu_session_has_no_capacity_until_one_ends(sandbox: KaggleSandbox) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox, "import time; time.sleep(1)")
        first = await kaggle.create(intent("accel-first"))
        await kaggle.create(intent("accel-second"))
        with pytest.raises(NoCapacity, match="session count of 2"):
            await kaggle.create(intent("accel-third"))
        await ended(kaggle, first)
        await kaggle.create(intent("accel-third"))

    asyncio.run(scenario())


def test_a_used_up_quota_is_told_with_its_refresh() -> None:
    async def scenario(sandbox: KaggleSandbox) -> None:
        kaggle = provider(sandbox)
        offer = await kaggle.probe(BATCH)
        assert isinstance(offer, Offer)
        assert offer.quota_left_s == pytest.approx(36.0)
        await job(kaggle)  # its nominal cold start alone is 60 s
        with pytest.raises(QuotaExhausted, match=r"GPU quota of 0\.01 hours reached") as caught:
            await kaggle.create(intent("accel-two"))
        assert caught.value.resets_at is not None
        assert caught.value.resets_at > RUNTIME.now()
        found = await kaggle.probe(BATCH)
        assert isinstance(found, Unfit)
        assert "used up" in found.reason

    with KaggleSandbox(time_scale=1000, queue_s=1, gpu_hours=0.01) as sandbox:
        asyncio.run(scenario(sandbox))


def test_sources_kaggle_does_not_know_are_a_failure(sandbox: KaggleSandbox) -> None:
    answer = {"ref": "/code/u/accel-one", "versionNumber": 1, "invalidDatasetSources": ["u/gone"]}
    sandbox.set_faults({"on": "SaveKernel", "kind": "odd_body", "text": json.dumps(answer)})
    # no Rejected: that says that nothing runs
    with pytest.raises(JobFailed, match="invalidDatasetSources"):
        asyncio.run(provider(sandbox).create(intent()))


def test_an_answer_that_says_nothing_may_have_taken_effect(sandbox: KaggleSandbox) -> None:
    sandbox.set_faults({"on": "SaveKernel", "kind": "odd_body", "text": "{}"})
    with pytest.raises(Unreachable):
        asyncio.run(provider(sandbox).create(intent()))


def test_an_error_inside_http_200_counts(sandbox: KaggleSandbox) -> None:
    body = json.dumps({"code": 403, "message": "phone verification needed"})
    sandbox.set_faults({"on": "SaveKernel", "kind": "odd_body", "text": body})
    with pytest.raises(Unauthorised, match="phone verification"):
        asyncio.run(provider(sandbox).create(intent()))


def test_a_server_that_hangs_is_unreachable_in_time(sandbox: KaggleSandbox) -> None:
    sandbox.set_faults({"on": "*", "kind": "hang", "times": 0})
    kaggle = provider(sandbox, call_s=0.2)
    with pytest.raises(Unreachable, match="ReadTimeout"):
        asyncio.run(kaggle.create(intent()))


FAILURES = (
    {"kind": "http", "status": 503}, {"kind": "http", "status": 429, "seconds": 0.01},
    {"kind": "http", "status": 500}, {"kind": "drop"}, {"kind": "lost_answer"},
    {"kind": "hang", "seconds": 1.5},
)  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f"{f['kind']}{f.get('status', '')}")
def test_the_sdk_itself_retries_nothing(
    sandbox: KaggleSandbox, failure: dict[str, Any], tmp_path: Path
) -> None:
    """Retries live in one layer: every call of ours that fails was one request on the wire."""
    kaggle = provider(sandbox, call_s=0.5)
    lease = asyncio.run(job(provider(sandbox)))
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "GetAcceleratorQuotaStatistics": lambda: kaggle.probe(BATCH),
        "SaveKernel": lambda: kaggle.create(intent("accel-two")),
        "GetKernelSessionStatus": lambda: kaggle.poll(lease),
        "ListKernelSessionOutput": lambda: kaggle.fetch(lease, tmp_path),
        "Download": lambda: kaggle.fetch(lease, tmp_path),
        "ListKernels": lambda: kaggle.leases(),
    }

    async def fails(call: Callable[[], Awaitable[object]]) -> None:
        with contextlib.suppress(ProviderError):
            assert not isinstance(await call(), Offer | tuple)  # probe and leases tell it as a value

    for name, call in calls.items():
        before = len(sandbox.requests(name))
        sandbox.set_faults({"on": name, "times": 0, **failure})
        asyncio.run(fails(call))
        for _ in range(250):  # a request that hung is on record once the sandbox saw us go
            if len(sandbox.requests(name)) > before:
                break
            time.sleep(0.02)
        assert len(sandbox.requests(name)) - before == 1, name
        sandbox.set_faults()


# --- what Kaggle does not show


@pytest.mark.parametrize("deny", [True, False])
def test_a_new_kernel_that_is_not_shown_is_not_believed_absent(deny: bool) -> None:
    async def scenario(sandbox: KaggleSandbox) -> None:
        kaggle = provider(sandbox, settle_s=60.0)
        young, old = intent(), intent(created_at=RUNTIME.now() - timedelta(seconds=61))
        with pytest.raises(Unreachable, match="too new"):
            await kaggle.find(young)
        assert await kaggle.find(old) is None

    with KaggleSandbox(time_scale=10_000, deny_unknown=deny) as sandbox:
        asyncio.run(scenario(sandbox))


def test_a_kernel_that_is_listed_but_denied_is_not_absent(sandbox: KaggleSandbox) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox)
        lease = await job(kaggle)
        denied = {"on": "GetKernelSessionStatus", "kind": "http", "status": 403, "times": 0,
                  "text": "Permission 'kernels.get' was denied"}  # fmt: skip
        sandbox.set_faults(denied)
        with pytest.raises(Unreachable, match="denies"):
            await kaggle.poll(lease)
        sandbox.set_faults(denied, {"on": "ListKernels", "kind": "odd_body", "text": "{}"})
        with pytest.raises(Unreachable, match="unknown is not none"):
            await kaggle.poll(lease)

    asyncio.run(scenario())


def test_leases_are_ours_recent_and_not_over(sandbox: KaggleSandbox) -> None:
    async def scenario() -> None:
        await job(provider(sandbox), "accel-done")
        slow = provider(sandbox, "import time; time.sleep(20)")
        running = await slow.create(intent("accel-slow"))
        listed = await slow.leases()
        assert not isinstance(listed, Unknown)
        assert [(k.name, k.remote_id) for k in listed] == [("accel-slow", running.remote_id)]
        assert listed[0].ends_by > RUNTIME.now() + timedelta(hours=12)

    asyncio.run(scenario())


def test_every_page_of_the_list_is_read(sandbox: KaggleSandbox) -> None:
    def page(names: list[str], token: str) -> str:
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        kernels = [{"ref": f"sandbox/{n}", "lastRunTime": when} for n in names]
        return json.dumps({"kernels": kernels, "nextPageToken": token})

    sandbox.set_faults(
        {"on": "ListKernels", "kind": "odd_body", "text": page(["mine", "accel-a"], "next")},
        {"on": "ListKernels", "kind": "odd_body", "text": page(["accel-b"], "")},
        {"on": "GetKernelSessionStatus", "kind": "odd_body", "text": "{}", "times": 0},
    )
    listed = asyncio.run(provider(sandbox).leases())
    assert not isinstance(listed, Unknown)
    assert [lease.name for lease in listed] == ["accel-a", "accel-b"]


def test_a_list_without_end_is_unknown(sandbox: KaggleSandbox) -> None:
    body = json.dumps({"kernels": [], "nextPageToken": "again"})
    sandbox.set_faults({"on": "ListKernels", "kind": "odd_body", "text": body, "times": 0})
    assert isinstance(asyncio.run(provider(sandbox).leases()), Unknown)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("QUEUED", JobState.QUEUED), ("RUNNING", JobState.RUNNING), ("COMPLETE", JobState.DONE),
        ("ERROR", JobState.FAILED), ("CANCEL_REQUESTED", JobState.RUNNING),
        ("CANCEL_ACKNOWLEDGED", JobState.CANCELLED), ("NEW_SCRIPT", JobState.FAILED),
    ],
)  # fmt: skip
def test_every_status_has_a_meaning(sandbox: KaggleSandbox, word: str, state: JobState) -> None:
    body = json.dumps({"status": word})
    sandbox.set_faults({"on": "GetKernelSessionStatus", "kind": "odd_body", "text": body})
    lease = Lease("i", "kaggle", Realm.SANDBOX, "accel-one", "sandbox/accel-one",
                  RUNTIME.now(), RUNTIME.now())  # fmt: skip
    assert asyncio.run(provider(sandbox).poll(lease)).state is state


def test_a_session_ends_at_its_timeout_and_is_then_released(sandbox: KaggleSandbox) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox, "import time; time.sleep(60)")
        lease = await kaggle.create(intent(lifetime_s=1.0))
        assert await ended(kaggle, lease) is JobState.FAILED
        assert "timeout of 1 s" in (await kaggle.poll(lease)).message
        assert isinstance(await kaggle.release(lease), Released)

    asyncio.run(scenario())


# --- files


def test_more_files_than_a_page_holds_and_folders_made_flat(
    sandbox: KaggleSandbox, tmp_path: Path
) -> None:
    code = (
        "import os\nos.mkdir('sub')\n"
        "for i in range(205):\n    open(f'f{i:03}', 'w').write(str(i))\n"
        "open('sub/deep.txt', 'w').write('deep')\n"
        "os.symlink('/etc/hostname', 'link')\n"
    )

    async def scenario() -> None:
        kaggle = provider(sandbox, code)
        fetched = await kaggle.fetch(await job(kaggle), tmp_path)
        assert len(sandbox.requests("ListKernelSessionOutput")) == 2
        assert sorted(fetched.files) == [f"f{i:03}" for i in range(205)] + ["sub__deep.txt"]
        assert all(fetched.files[f"f{i:03}"].read_text() == str(i) for i in range(205))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "item",
    [
        {"fileName": "../../evil"}, {"fileName": "/etc/passwd"}, {"fileName": "a\\b"}, {"fileName": ""},
        {"fileName": "ok", "url": "http://192.0.2.1/ok"}, {"fileName": "ok", "url": "file:///etc/passwd"},
    ],
)  # fmt: skip
def test_an_unsafe_listing_writes_nothing(
    sandbox: KaggleSandbox, tmp_path: Path, item: dict[str, str]
) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox)
        lease = await job(kaggle)
        body = json.dumps({"files": [{"url": f"{sandbox.url}/_files/x/y/v1/z", **item}], "log": ""})
        sandbox.set_faults({"on": "ListKernelSessionOutput", "kind": "odd_body", "text": body})
        with pytest.raises(BadOutput):
            await kaggle.fetch(lease, tmp_path / "home")
        assert files_in(tmp_path) == []

    asyncio.run(scenario())


def test_output_larger_than_allowed_is_not_kept(sandbox: KaggleSandbox, tmp_path: Path) -> None:
    async def scenario() -> None:
        kaggle = provider(sandbox, "open('big', 'wb').write(bytes(3_000_000))", max_bytes=1_000_000)
        with pytest.raises(BadOutput, match="larger"):
            await kaggle.fetch(await job(kaggle), tmp_path)
        assert files_in(tmp_path) == []

    asyncio.run(scenario())


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- a real bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose job fails at once, saying why: enough to see its own package run at the far end."""
    spec = Spec(Stage.EMBED)
    inputs = Envelope("t1", spec.fields(), {"x": np.zeros(1)})
    Bundle.make({"task_id": "t1", "kind": "no such kind", "lifetime_s": 60}, inputs).write(tmp_path / "b")
    return tmp_path / "b"


def bundled(sandbox: KaggleSandbox) -> KaggleProvider:
    return KaggleProvider(
        credentials=KaggleCredentials(sandbox.username, sandbox.key), runtime=RUNTIME,
        realm=Realm.SANDBOX, endpoint=sandbox.url,
    )  # fmt: skip


def test_a_bundle_runs_from_its_own_wheel_and_says_why_it_failed(
    sandbox: KaggleSandbox, bundle: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        kaggle = bundled(sandbox)
        lease = await kaggle.create(intent(bundle=bundle))
        assert await ended(kaggle, lease) is JobState.FAILED
        fetched = await kaggle.fetch(lease, tmp_path / "home")
        assert "no such kind" in fetched.log
        with pytest.raises(JobFailed, match="no such kind"):
            read_result(tmp_path / "home", task_id="t1", spec=Spec(Stage.EMBED).fields(), provider="kaggle")

    asyncio.run(scenario())


def test_a_corrupted_result_is_found_out(
    sandbox: KaggleSandbox, tmp_path: Path
) -> None:
    code = (
        "import numpy as np\nfrom pathlib import Path\nfrom accel.wire import Envelope\n"
        "from accel.worker.artefacts import write_result\n"
        "write_result(Path('.'), 't1', Envelope('t1', {}, {'v': np.ones(1000)}), {})\n"
    )

    async def scenario() -> None:
        kaggle = provider(sandbox, code)
        lease = await job(kaggle)
        read = {"task_id": "t1", "spec": {}, "provider": "kaggle"}
        await kaggle.fetch(lease, tmp_path / "good")
        assert read_result(tmp_path / "good", **read).output.tensors["v"].sum() == 1000  # type: ignore[arg-type]
        sandbox.set_faults({"on": "Download", "kind": "corrupted", "after": 1})  # result.safetensors
        await kaggle.fetch(lease, tmp_path / "bad")
        with pytest.raises(BadOutput, match="not what the job wrote"):
            read_result(tmp_path / "bad", **read)  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_a_folder_that_is_no_bundle_is_rejected(sandbox: KaggleSandbox, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="not a whole job bundle"):
        asyncio.run(bundled(sandbox).create(intent(bundle=tmp_path)))
    assert sandbox.requests() == []


# --- small things, as properties


@given(st.text(max_size=300))
def test_a_flat_name_is_one_plain_file_name(name: str) -> None:
    try:
        flat = flat_name(name)
    except BadOutput:
        return
    assert flat
    assert "/" not in flat
    assert "\\" not in flat
    assert flat not in (".", "..")
    assert not re.search(r"[\x00-\x1f]", flat)
    assert Path("/folder", flat).parent == Path("/folder")


@given(st.lists(st.text(max_size=20)))
def test_the_log_is_what_was_printed(chunks: list[str]) -> None:
    events = [{"stream_name": "stdout", "time": 0.1, "data": chunk} for chunk in chunks]
    assert log_text(json.dumps(events)) == "".join(chunks)


@given(st.floats(0, 86400))
def test_retry_after_in_seconds(seconds: float) -> None:
    assert parse_retry_after(repr(seconds)) == seconds


@given(st.text(max_size=40))
def test_retry_after_is_bounded_or_unknown(value: str) -> None:
    parsed = parse_retry_after(value)
    assert parsed is None or 0 <= parsed <= 86400


def test_retry_after_as_a_date() -> None:
    now = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    assert parse_retry_after("Mon, 23 Nov 2026 12:01:30 GMT", now) == 90


@given(st.text(st.characters(categories=["L", "N"]), min_size=6, max_size=40))
def test_credentials_are_struck_out_of_any_text(secret: str) -> None:
    for credentials in (KaggleCredentials("user", secret), KaggleCredentials(token=secret)):
        assert secret not in credentials.clean(f"before {secret} after")
        assert secret not in repr(credentials)


def test_the_errors_are_provider_errors() -> None:
    from accel.providers.kaggle_client import NotFound

    assert issubclass(NotFound, ProviderError)
