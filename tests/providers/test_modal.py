"""Modal's own: no request twice, no job twice, nothing left, nothing told that is nobody's business."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import time
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import modal_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("modal", reason="Modal's SDK is not installed (pip install 'accel[modal]')")

from accel.core.errors import (
    BadOutput,
    JobFailed,
    OutOfMemory,
    Preempted,
    ProviderError,
    Rejected,
    SettingsError,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Lease, Released, Unconfirmed
from accel.core.money import Basis
from accel.core.offer import Offer, Realm, Unfit
from accel.core.task import Lane, Need, Numerics, Stage
from accel.providers import modal_far, modal_rates
from accel.providers.base import JobState
from accel.providers.modal_bytes import answered, unpacked
from accel.providers.modal_calls import only_bytes
from accel.providers.modal_client import ModalCredentials
from accel.sandbox.modal import ModalSandbox
from accel.worker.bundle import Bundle, pack_wheel

GONE = 30.0  # longest that a test waits for something that takes a second or two


@pytest.fixture(scope="module")
def served() -> Iterator[ModalSandbox]:
    with ModalSandbox(time_scale=10_000) as running:
        yield running


@pytest.fixture
def sandbox(served: ModalSandbox) -> ModalSandbox:
    served.reset()
    return served


@pytest.fixture
def adapter(sandbox: ModalSandbox) -> Iterator[Any]:
    made = modal_cases.provider(sandbox)
    yield made
    asyncio.run(made.aclose())


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(scenario)


async def until(adapter: Any, lease: Lease, *states: JobState) -> JobState:
    """Poll until the job is in one of ``states``, or ends."""
    ends = time.monotonic() + GONE
    while (progress := await adapter.poll(lease)).state not in states and not progress.state.terminal:
        assert time.monotonic() < ends, progress
        await asyncio.sleep(0.05)
    state: JobState = progress.state
    return state


async def begun(adapter: Any, seconds: float, **options: Any) -> Lease:
    """A job that runs."""
    lease: Lease = await adapter.create(modal_cases.intent(seconds, **options))
    await adapter.start(lease)
    await until(adapter, lease, JobState.RUNNING)
    return lease


# --- requests


@pytest.mark.parametrize("rule", [
    {"kind": "http", "status": 503}, {"kind": "http", "status": 429, "seconds": 3600}, {"kind": "drop"},
    {"kind": "lost_answer"}, {"kind": "http", "status": 500},
])  # fmt: skip
@pytest.mark.parametrize("call", ["AppCreate", "FunctionCreate", "FunctionMap"])
def test_what_fails_is_not_sent_again(
    adapter: Any, sandbox: ModalSandbox, rule: dict[str, Any], call: str
) -> None:
    """The SDK would try 3 times, and for as long as the server asks."""

    async def scenario() -> None:
        intent = modal_cases.intent(0.05)
        if call == "FunctionMap":
            lease = await adapter.create(intent)
        sandbox.set_faults({"on": call, "times": 0, **rule})
        with pytest.raises(ProviderError):
            await (adapter.start(lease) if call == "FunctionMap" else adapter.create(intent))
        assert len(sandbox.requests(call)) == 1

    run(scenario())


def test_a_dead_server_is_told_at_once_and_not_after_a_minute() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dead = type("Dead", (), {"url": f"http://127.0.0.1:{port}", "token_id": "ak-1", "token_secret": "as-1",
                             "billing_interval_s": 1.0})  # fmt: skip
    adapter = modal_cases.provider(dead)

    async def scenario() -> None:
        with pytest.raises(Unreachable):
            async with asyncio.timeout(10):
                await adapter.create(modal_cases.intent(0.05))
        assert isinstance(await adapter.probe(Need(Stage.EMBED, Lane.BATCH)), Unfit)

    run(scenario())


def test_a_server_that_hangs_holds_nobody_past_the_limit(sandbox: ModalSandbox) -> None:
    adapter = modal_cases.provider(sandbox, call_s=0.5)

    async def scenario() -> None:
        sandbox.set_faults({"on": "AppList", "kind": "hang", "times": 0})
        async with asyncio.timeout(20):
            assert not isinstance(await adapter.leases(), tuple)
        sandbox.set_faults()
        assert await adapter.leases() == ()
        await adapter.aclose()

    run(scenario())


def test_a_deployment_says_nothing_of_the_checkout_it_was_made_in(
    adapter: Any, sandbox: ModalSandbox
) -> None:
    seen: list[Any] = []
    publish = sandbox.app.calls.AppPublish
    sandbox.app.calls.AppPublish = lambda r: seen.append(r) or publish(r)  # type: ignore[method-assign]
    try:
        run(adapter.create(modal_cases.intent(0.05)))
    finally:
        del sandbox.app.calls.AppPublish
    assert len(seen) == 1 and not seen[0].HasField("commit_info")


def test_the_wheel_travels_once_and_then_by_its_hash(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        await adapter.create(modal_cases.intent(0.05))
        first = len(sandbox.requests("MountPutFile"))
        await adapter.create(modal_cases.intent(0.05))
        assert len(sandbox.requests("MountPutFile")) == first

    run(scenario())


def test_environment_variables_of_another_account_are_not_used(
    sandbox: ModalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-another")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-another")
    monkeypatch.setenv("MODAL_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MODAL_ENVIRONMENT", "another")
    adapter = modal_cases.provider(sandbox)

    async def scenario() -> None:
        lease = await adapter.create(modal_cases.intent(0.05))
        assert isinstance(await adapter.release(lease), Released)
        await adapter.aclose()

    run(scenario())


@pytest.mark.parametrize(("realm", "endpoint"), [
    (Realm.REAL, "http://127.0.0.1:1"), (Realm.SANDBOX, None), (Realm.SANDBOX, "http://example.com"),
    (Realm.SIMULATED, None),
])  # fmt: skip
def test_a_realm_goes_with_its_endpoint_alone(realm: Realm, endpoint: str | None) -> None:
    from accel.providers.modal import ModalProvider

    with pytest.raises(SettingsError):
        ModalProvider(realm=realm, endpoint=endpoint, credentials=ModalCredentials("a", "b"),
                      runtime=modal_cases.RUNTIME)  # fmt: skip


# --- a job runs once, and its end is told


def test_a_start_that_is_repeated_or_whose_answer_was_lost_runs_the_job_once(
    adapter: Any, sandbox: ModalSandbox
) -> None:
    async def scenario() -> None:
        intent = modal_cases.intent(0.05)
        lease = await adapter.create(intent)
        sandbox.set_faults({"on": "FunctionMap", "kind": "lost_answer"})
        with pytest.raises(Unreachable):
            await adapter.start(lease)
        successor = modal_cases.provider(sandbox)  # a process that never saw the call's id
        await successor.start(lease, intent.bundle)
        await successor.start(lease, intent.bundle)
        assert await until(successor, lease, JobState.DONE) is JobState.DONE
        assert len(sandbox.requests("FunctionMap")) == 1
        assert await adapter.poll(lease) == await successor.poll(lease)
        await successor.aclose()

    run(scenario())


def test_an_interrupted_job_starts_again_and_its_log_says_so(
    adapter: Any, sandbox: ModalSandbox, tmp_path: Path
) -> None:
    async def scenario() -> None:
        lease = await begun(adapter, 1.0)
        assert await asyncio.to_thread(sandbox.preempt, 30.0) == 1
        assert await until(adapter, lease, JobState.DONE) is JobState.DONE
        assert "preempted 1 times" in (await adapter.fetch(lease, tmp_path)).log

    run(scenario())


def test_a_lost_input_is_preempted(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        lease = await begun(adapter, 30)
        await asyncio.to_thread(lambda: sandbox.preempt(lost=True))
        with pytest.raises(Preempted):
            await adapter.poll(lease)

    run(scenario())


def test_a_container_that_took_too_much_memory_is_out_of_memory(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        lease = await begun(adapter, 30)
        await asyncio.to_thread(sandbox.out_of_memory)
        with pytest.raises(OutOfMemory):
            await adapter.poll(lease)

    run(scenario())


def test_a_job_ends_at_its_lifetime(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        lease = await begun(adapter, 30, lifetime_s=1.0)
        assert await until(adapter, lease, JobState.FAILED) is JobState.FAILED
        assert not [t for t in await asyncio.to_thread(sandbox.things) if t["kind"] == "container"]

    run(scenario())


def test_a_lifetime_that_is_over_is_not_begun_anew() -> None:
    """However often Modal starts an interrupted input again."""
    request = modal_far.frame({"ends_at": time.time() - 1}, modal_far.pack({"run.py": b""}))
    with pytest.raises(JobFailed, match="lifetime"):
        answered(modal_far.job(request))


def test_a_cold_start_that_never_ends_is_queued_and_can_be_given_back(
    adapter: Any, sandbox: ModalSandbox
) -> None:
    async def scenario() -> None:
        sandbox.set_cold(None)
        lease = await adapter.create(modal_cases.intent(0.05))
        await adapter.start(lease)
        assert (await adapter.poll(lease)).state is JobState.QUEUED
        assert isinstance(await adapter.release(lease), Released)
        assert await asyncio.to_thread(sandbox.things) == []

    run(scenario())


def test_a_corrupted_output_is_bad_output(adapter: Any, sandbox: ModalSandbox, tmp_path: Path) -> None:
    async def scenario() -> None:
        lease = await begun(adapter, 0.05)
        await until(adapter, lease, JobState.DONE)
        sandbox.set_faults({"on": "Download", "kind": "truncated", "times": 0})
        with pytest.raises(BadOutput):
            await adapter.fetch(lease, tmp_path)
        assert len(sandbox.requests("Download")) == 1, "the SDK would have tried 5 times"

    run(scenario())


def test_a_start_without_an_app_is_preempted_and_without_a_bundle_rejected(
    adapter: Any, sandbox: ModalSandbox
) -> None:
    async def scenario() -> None:
        intent = modal_cases.intent(0.05)
        lease = await adapter.create(intent)
        other = modal_cases.provider(sandbox)
        with pytest.raises(Rejected):
            await other.start(lease)
        await adapter.release(lease)
        with pytest.raises(Preempted):
            await other.start(lease, intent.bundle)
        await other.aclose()

    run(scenario())


def test_a_real_bundle_runs_from_its_own_wheel_and_says_why_it_failed(
    sandbox: ModalSandbox, tmp_path: Path
) -> None:
    """The far end imports accel from /root; a job of an unknown kind needs no model."""
    from accel.providers.modal_bytes import bundled
    from accel.wire import Envelope
    from accel.worker.artefacts import read_result

    adapter = modal_cases.provider(sandbox, bundle=bundled, wheel=pack_wheel)
    inputs = Envelope("t1", {"stage": "embed"}, {})
    Bundle.make({"task_id": "t1", "kind": "no such kind", "lifetime_s": 60}, inputs).write(tmp_path / "b")

    async def scenario() -> None:
        lease = await adapter.create(modal_cases.intent(tmp_path / "b"))
        await adapter.start(lease)
        assert await until(adapter, lease, JobState.DONE) is JobState.DONE
        fetched = await adapter.fetch(lease, tmp_path / "home")
        assert "no such kind" in fetched.log
        with pytest.raises(JobFailed, match="no such kind"):
            read_result(tmp_path / "home", task_id="t1", spec={}, provider="modal")
        await adapter.aclose()

    run(scenario())


# --- nothing is left, and the bill is Modal's


@pytest.mark.parametrize("call", ["AppCreate", "FunctionCreate", "AppPublish", "FunctionGet"])
def test_whatever_dies_in_create_another_process_finds_and_ends(
    adapter: Any, sandbox: ModalSandbox, call: str
) -> None:
    async def scenario() -> None:
        intent = modal_cases.intent(0.05)
        # the whole deployment is cut off here: the SDK's own cleaning up is lost, too
        sandbox.set_faults({"on": call, "kind": "lost_answer"}, {"on": "AppClientDisconnect", "kind": "drop"})
        with pytest.raises(Unreachable):
            await adapter.create(intent)
        sandbox.set_faults()
        successor = modal_cases.provider(sandbox)
        found = await successor.find(intent)
        assert (found is not None) == (call in ("AppPublish", "FunctionGet"))
        listed = await successor.leases()
        assert isinstance(listed, tuple) and [lease.name for lease in listed] == [intent.name]
        for lease in listed:
            assert isinstance(await successor.release(lease), Released)
        assert await successor.leases() == ()
        assert await asyncio.to_thread(sandbox.things) == []
        assert await asyncio.to_thread(sandbox.invoice_nano) == 0
        await successor.aclose()

    run(scenario())


def test_the_bill_is_the_invoice_to_the_nano_dollar(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        ran = await begun(adapter, 0.05)
        never = await adapter.create(modal_cases.intent(0.05))
        assert await adapter.bill(ran) is None, "what still runs has no final bill"
        for lease in (ran, never):
            assert isinstance(await adapter.release(lease), Released)
        bills = []
        for lease in (ran, never):
            await asyncio.sleep(2 * sandbox.billing_interval_s)  # the billing hour, scaled
            cost = await adapter.bill(lease)
            assert cost.basis is Basis.BILLED
            bills.append(cost.amount)
        assert bills == [await asyncio.to_thread(sandbox.invoice_nano, x.name) for x in (ran, never)]
        assert bills[0] > 0 and bills[1] == 0

    run(scenario())


def test_a_report_that_does_not_show_what_has_run_is_no_bill(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        lease = await begun(adapter, 0.05)
        await adapter.release(lease)
        await asyncio.sleep(2 * sandbox.billing_interval_s)
        sandbox.set_faults({"on": "WorkspaceBillingReport", "kind": "odd_body", "text": "", "times": 0})
        assert await adapter.bill(lease) is None

    run(scenario())


def test_release_waits_for_the_containers_to_go(adapter: Any, sandbox: ModalSandbox) -> None:
    """An app that is stopped and a container that still runs: not released."""

    async def scenario() -> None:
        lease = await begun(adapter, 30)
        kill = sandbox.app.containers.kill

        async def linger(*_: Any, **__: Any) -> None:
            return None

        sandbox.app.containers.kill = linger  # type: ignore[method-assign]
        try:
            import accel.providers.modal as module

            patience, module.CONFIRM_S = module.CONFIRM_S, 0.3
            answer = await adapter.release(lease)
            module.CONFIRM_S = patience
        finally:
            sandbox.app.containers.kill = kill  # type: ignore[method-assign]
        assert isinstance(answer, Unconfirmed) and "still run" in answer.reason
        app = next(iter(sandbox.app.state.apps.values()))
        (container,) = sandbox.app.containers.live()
        await asyncio.to_thread(sandbox.app.run, lambda: sandbox.app.containers.kill(container, "test"))
        assert app.stopped_at
        assert isinstance(await adapter.release(lease), Released)

    run(scenario())


def test_a_listing_that_leaves_out_what_was_made_is_unknown(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        lease = await adapter.create(modal_cases.intent(0.05))
        sandbox.set_faults({"on": "AppList", "kind": "odd_body", "text": ""})  # none, says Modal
        answer = await adapter.leases()
        assert not isinstance(answer, tuple) and lease.name in answer.reason
        assert isinstance(await adapter.release(lease), Released)
        sandbox.set_faults({"on": "AppList", "kind": "odd_body", "text": ""})
        assert await adapter.leases() == ()

    run(scenario())


# --- prices


def test_rates_are_modals_own_and_follow_it(adapter: Any, sandbox: ModalSandbox) -> None:
    async def scenario() -> None:
        need = Need(Stage.EMBED, Lane.BATCH)
        before = await adapter.probe(need)
        assert isinstance(before, Offer) and before.gpu.name == "T4"
        assert "billing rates" in before.rate.source
        sandbox.set_rates({"gpu:T4": 700_000_000})
        try:
            after = await adapter.probe(need)
            assert after.rate.nano_per_hour - before.rate.nano_per_hour == 110_000_000
            sandbox.set_rates({"gpu:T4": 99_000_000_000})  # no price of a T4
            doubtful = await adapter.probe(need)
            assert "Modal's billing rates" not in doubtful.rate.source or doubtful.gpu.name != "T4"
        finally:
            sandbox.set_rates({"gpu:T4": 590_000_000})
        sandbox.set_faults({"on": "WorkspaceBillingRates", "kind": "http", "status": 403})
        shipped = await adapter.probe(need)
        assert isinstance(shipped, Offer) and "modal.com" in shipped.rate.source

    run(scenario())


@pytest.mark.parametrize(("need", "gpu"), [
    (Need(Stage.EMBED, Lane.BATCH, vram_bytes=20 << 30), "L4"),
    (Need(Stage.EMBED, Lane.BATCH, vram_bytes=60 << 30), "A100 80GB"),
    (Need(Stage.EMBED, Lane.BATCH, capability=90), "H100"),
    (Need(Stage.EMBED, Lane.BATCH, numerics=Numerics.BF16), "L4"),
])  # fmt: skip
def test_the_cheapest_gpu_that_will_do_is_offered(adapter: Any, need: Need, gpu: str) -> None:
    found = run(adapter.probe(need))
    assert isinstance(found, Offer) and found.gpu.name == gpu


def test_what_nothing_can_do_is_unfit(adapter: Any) -> None:
    assert isinstance(run(adapter.probe(Need(Stage.EMBED, Lane.BATCH, vram_bytes=1 << 45))), Unfit)
    assert isinstance(run(adapter.probe(Need(Stage.SEARCH, Lane.BATCH, index="x"))), Unfit)


def test_without_a_key_it_says_what_to_set(sandbox: ModalSandbox) -> None:
    adapter = modal_cases.provider(sandbox, credentials=ModalCredentials())
    found = run(adapter.probe(Need(Stage.EMBED, Lane.BATCH)))
    assert isinstance(found, Unfit) and found.mendable and "MODAL_TOKEN_ID" in found.reason


def test_a_used_up_account_is_one_to_mend(adapter: Any, sandbox: ModalSandbox) -> None:
    sandbox.set_faults({"on": "*", "kind": "http", "status": 429, "text": "workspace spend limit reached"})
    with pytest.raises(Unauthorised):
        run(adapter.create(modal_cases.intent(0.05)))


@settings(max_examples=30)
@given(st.decimals("0.4", "1.2", places=6), st.booleans(), st.sampled_from(["gpu:T4", "GPU_T4", "a-t4-hour"]))
def test_a_rate_is_read_by_the_hour_and_by_the_second(value: Any, seconds: bool, name: str) -> None:
    told = {name: str(value / 3600 if seconds else value), "cpu": "0.05", "memory": "0.008"}
    sold = next(s for s in modal_rates.catalogue(told, modal_cases.RUNTIME.now().date()) if s.name == "T4")
    expected = float(value) + 2 * 0.05 + 4 * 0.008
    assert abs(sold.rate.nano_per_hour / 1e9 - expected) < 1e-6


@settings(max_examples=20)
@given(st.dictionaries(st.text(max_size=12), st.text(max_size=8), max_size=6))
def test_whatever_rates_are_told_a_price_is_a_price(told: dict[str, str]) -> None:
    for sold in modal_rates.catalogue(told, modal_cases.RUNTIME.now().date()):
        assert 0 < sold.rate.nano_per_hour < 100_000_000_000 and sold.rate.source


# --- bytes alone


@given(st.binary(max_size=200))
def test_bytes_come_through_the_engines_pickle(data: bytes) -> None:
    assert only_bytes(pickle.dumps(data)) == data


class Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("code ran",))


@pytest.mark.parametrize("other", ["text", 1, [b"x"], Trap(), {"a": b"b"}])
def test_nothing_else_does_and_no_code_runs(other: Any) -> None:
    with pytest.raises(BadOutput):
        only_bytes(pickle.dumps(other))


@given(st.binary(max_size=100))
def test_a_damaged_pickle_is_bad_output(data: bytes) -> None:
    with contextlib.suppress(BadOutput):
        assert isinstance(only_bytes(data), bytes)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ".", "a\\b"])
def test_a_file_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    answer = modal_far.OK + modal_far.pack({name: b"x"})
    with pytest.raises(BadOutput):
        unpacked(answer, tmp_path / "in", 1000, 0)
    assert not (tmp_path / "x").exists()


def test_more_than_may_come_back_is_bad_output(tmp_path: Path) -> None:
    with pytest.raises(BadOutput):
        unpacked(modal_far.OK + modal_far.pack({"a": bytes(2000)}), tmp_path, 1000, 0)


def test_an_intent_that_cannot_be_is_rejected_before_anything_is_sent(
    adapter: Any, sandbox: ModalSandbox
) -> None:
    good = modal_cases.intent(0.05)
    for bad in (
        replace(good, name="kernel-1"), replace(good, name="accel-X"), replace(good, bundle=None),
        replace(good, lifetime_s=0.1), replace(good, lifetime_s=1e6), replace(good, name="accel-" + "x" * 70),
        replace(good, offer=replace(good.offer, id="modal-sandbox-abacus")),
    ):  # fmt: skip
        with pytest.raises(Rejected):
            run(adapter.create(bad))
    assert sandbox.requests() == []
