"""RunPod's pods under every fault: nothing is left, nothing hangs, nothing is charged twice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import looped
from sleepers import sleeper

from accel.core.errors import (
    BadOutput,
    NoCapacity,
    Preempted,
    ProviderError,
    Rejected,
    SettingsError,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import NANO, Basis, Cost, NanoUSD, Rate
from accel.core.offer import Gpu, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Numerics, Stage
from accel.providers import runpod_market as market
from accel.providers.base import JobState
from accel.providers.runpod import RunPodProvider
from accel.providers.runpod_calls import Credentials, _classify, nano
from accel.sandbox.runpod import RunPodSandbox

RUNTIME = Runtime.production()
NUMBER = itertools.count()
BATCH = Need(Stage.EMBED, Lane.BATCH)
L4 = Offer(
    "runpod/sandbox/COMMUNITY/NVIDIA L4", "runpod", Realm.SANDBOX, Gpu("L4", 1, 24 << 30, 89),
    Rate(NanoUSD(450_000_000), RUNTIME.now().date(), "test"), RUNTIME.now(), "test",
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[RunPodSandbox]:
    with RunPodSandbox(time_scale=1000) as running:
        yield running


@pytest.fixture
def sandbox(served: RunPodSandbox) -> RunPodSandbox:
    served.reset()
    return served


def provider(sandbox: RunPodSandbox, **how: Any) -> RunPodProvider:
    given = {
        "credentials": Credentials(sandbox.key), "runtime": RUNTIME, "realm": Realm.SANDBOX,
        "token": lambda name: f"token-of-{name}-0123456789", "endpoint": sandbox.url, "call_s": 10.0,
        "poll_s": 0.05,
    }  # fmt: skip
    return RunPodProvider(**given | how)


@pytest.fixture
def intend(tmp_path: Path) -> Any:
    def make(seconds: float = 0.05, lifetime_s: float = 60.0) -> Intent:
        n = next(NUMBER)
        bundle = sleeper(tmp_path / f"t{n}", seconds)
        return Intent(f"i{n}", f"t{n}", L4, f"accel-r{n}", lifetime_s, RUNTIME.now(), bundle)

    return make


async def ended(runpod: RunPodProvider, lease: Lease) -> JobState:
    while True:
        # A pod that is just dying still says RUNNING, and its proxy 502: whoever polls asks again.
        with contextlib.suppress(Unreachable):
            if (progress := await runpod.poll(lease)).state.terminal:
                return progress.state
        await asyncio.sleep(0.05)


async def nothing_left(runpod: RunPodProvider, lease: Lease, sandbox: RunPodSandbox) -> None:
    """It is released, the sandbox has nothing, and the bill is what the sandbox charges for it."""
    assert isinstance(await runpod.release(lease), Released)
    assert sandbox.things() == []
    assert await runpod.leases() == ()
    machine = sandbox.app.account.machines.get(lease.remote_id)
    assert machine is not None
    assert await runpod.bill(lease) == Cost(NanoUSD(machine.invoice(0.0)), Basis.BILLED)


# --- one process dies, another goes on


@looped
async def test_a_successor_that_knows_nothing_carries_the_lease_on(
    sandbox: RunPodSandbox, intend: Any, tmp_path: Path
) -> None:
    intent = intend(0.5)
    first = provider(sandbox)
    lease = await first.create(intent)
    await first.start(lease, intent.bundle)
    second = provider(sandbox)
    assert await second.find(intent) == lease
    await second.start(lease, intent.bundle)  # begun once more: nothing happens
    assert await ended(second, lease) is JobState.DONE
    fetched = await provider(sandbox).fetch(lease, tmp_path / "home")
    assert list(fetched.files) == ["result.json"]
    assert fetched.log == "sleeping\n"
    assert len(sandbox.requests("CreatePod")) == 1
    await nothing_left(provider(sandbox), lease, sandbox)


@looped
async def test_a_job_that_fails_is_failed(sandbox: RunPodSandbox, intend: Any) -> None:
    intent, runpod = intend(0.0), provider(sandbox)
    lease = await runpod.create(intent)
    await runpod.start(lease, intent.bundle)
    assert await ended(runpod, lease) is JobState.FAILED
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_an_order_is_found_behind_a_list_that_was_empty_once(
    sandbox: RunPodSandbox, intend: Any
) -> None:
    intent, runpod = intend(), provider(sandbox)
    sandbox.set_faults({"on": "CreatePod", "kind": "lost_answer"})
    with pytest.raises(Unreachable):
        await runpod.create(intent)
    sandbox.set_faults({"on": "ListPods", "kind": "odd_body", "text": '{"pods": []}'})
    lease = await runpod.find(intent)
    assert lease is not None
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_a_pod_that_may_be_too_new_is_not_said_to_be_absent(
    sandbox: RunPodSandbox, intend: Any
) -> None:
    runpod, intent = provider(sandbox, settle_s=30.0), intend()
    with pytest.raises(Unreachable) as caught:
        await runpod.find(intent)
    assert 25 < (caught.value.retry_after_s or 0) <= 30
    old = dataclasses.replace(intent, created_at=intent.created_at - timedelta(seconds=31))
    assert await runpod.find(old) is None


@looped
async def test_a_list_that_lacks_a_known_pod_is_unknown(sandbox: RunPodSandbox, intend: Any) -> None:
    runpod = provider(sandbox)
    lease = await runpod.create(intend())
    sandbox.set_faults({"on": "ListPods", "kind": "odd_body", "text": '{"pods": []}'})
    listed = await runpod.leases()
    assert isinstance(listed, Unknown)
    assert "lacks" in listed.reason
    await nothing_left(runpod, lease, sandbox)


# --- what clouds do


@looped
async def test_a_pod_that_never_comes_up_is_no_capacity(sandbox: RunPodSandbox, intend: Any) -> None:
    runpod, intent = provider(sandbox, up_s=0.3), intend()
    sandbox.set_faults({"on": "CreatePod", "kind": "cold_start"})
    lease = await runpod.create(intent)
    assert (await runpod.poll(lease)).state is JobState.QUEUED
    with pytest.raises(NoCapacity, match="not up within"):
        await runpod.start(lease, intent.bundle)
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_a_control_plane_that_is_silent_while_a_pod_comes_up_is_told(
    sandbox: RunPodSandbox, intend: Any
) -> None:
    runpod, intent = provider(sandbox, blind_s=0.2), intend()
    lease = await runpod.create(intent)
    sandbox.set_faults({"on": "GetPod", "kind": "http", "status": 500, "times": 0})
    with pytest.raises(Unreachable):
        await runpod.start(lease, intent.bundle)
    sandbox.set_faults({"on": "GetPod", "kind": "http", "status": 500, "times": 1})  # a single one is not
    await runpod.start(lease, intent.bundle)
    await nothing_left(runpod, lease, sandbox)


@pytest.mark.parametrize("notice_s", [0, 30, 120])
@looped
async def test_a_pod_taken_away_in_the_middle_is_preempted(
    sandbox: RunPodSandbox, intend: Any, notice_s: int
) -> None:
    runpod, intent = provider(sandbox), intend(30)
    lease = await runpod.create(intent)
    await runpod.start(lease, intent.bundle)
    assert (await runpod.poll(lease)).state is JobState.RUNNING
    sandbox.set_faults({"on": "Proxy", "kind": "preempt", "seconds": notice_s})
    with pytest.raises(Preempted):
        await ended(runpod, lease)
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_a_pod_taken_away_between_finish_and_fetch_is_preempted(
    sandbox: RunPodSandbox, intend: Any, tmp_path: Path
) -> None:
    runpod, intent = provider(sandbox), intend()
    lease = await runpod.create(intent)
    await runpod.start(lease, intent.bundle)
    assert await ended(runpod, lease) is JobState.DONE
    sandbox.set_faults({"on": "Download", "kind": "preempt"})
    with pytest.raises(Preempted):
        await runpod.fetch(lease, tmp_path / "home")
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_an_altered_file_is_bad_output(sandbox: RunPodSandbox, intend: Any, tmp_path: Path) -> None:
    runpod, intent = provider(sandbox), intend()
    lease = await runpod.create(intent)
    await runpod.start(lease, intent.bundle)
    assert await ended(runpod, lease) is JobState.DONE
    sandbox.set_faults({"on": "Download", "kind": "corrupted"})
    with pytest.raises(BadOutput):
        await runpod.fetch(lease, tmp_path / "home")
    assert await runpod.fetch(lease, tmp_path / "home")
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_a_price_that_rises_between_offer_and_order_is_not_paid(
    sandbox: RunPodSandbox, intend: Any
) -> None:
    runpod = provider(sandbox)
    sandbox.set_faults({"on": "CreatePod", "kind": "price", "text": "3"})
    try:
        with pytest.raises(NoCapacity, match="more than it offered"):
            await runpod.create(intend())
        assert sandbox.things() == []
        sandbox.set_faults({"on": "DeletePod", "kind": "http", "status": 500, "times": 0})
        with pytest.raises(Unreachable, match="not given back"):  # owned: ``find`` has it
            await runpod.create(intent := intend())
        sandbox.set_faults()
        lease = await runpod.find(intent)
        assert lease is not None
        await nothing_left(runpod, lease, sandbox)
    finally:
        sandbox.app.account.catalog.factor /= 3


@looped
async def test_no_money_is_for_the_person_to_mend(sandbox: RunPodSandbox, intend: Any) -> None:
    sandbox.set_faults({"on": "CreatePod", "kind": "http", "status": 402, "text": "Insufficient balance"})
    with pytest.raises(Unauthorised, match="Add credits"):
        await provider(sandbox).create(intend())
    assert sandbox.things() == []


@looped
async def test_an_account_that_runs_dry_loses_its_pods(intend: Any) -> None:
    with RunPodSandbox(time_scale=1000, credit=1) as poor:
        runpod, intent = provider(poor), intend(30)
        assert await runpod.balance() == NANO
        lease = await runpod.create(intent)
        await runpod.start(lease, intent.bundle)
        poor.app.account.credit = 1
        with pytest.raises(Preempted):
            await ended(runpod, lease)
        assert await runpod.balance() < 1  # type: ignore[operator]
        with pytest.raises(Unauthorised, match="402"):
            await runpod.create(intend())
        assert isinstance(await runpod.release(lease), Released)


@pytest.mark.parametrize("call", ["CreatePod", "ListPods", "GetPod"])
@looped
async def test_a_call_that_hangs_ends_with_its_limit(sandbox: RunPodSandbox, intend: Any, call: str) -> None:
    runpod, intent = provider(sandbox, call_s=0.3), intend()
    if call != "CreatePod":
        lease = await provider(sandbox).create(intent)
    sandbox.set_faults({"on": call, "kind": "hang", "times": 0})
    asked = {"CreatePod": lambda: runpod.create(intent), "ListPods": lambda: runpod.find(intent),
             "GetPod": lambda: runpod.poll(lease)}  # fmt: skip
    with pytest.raises(Unreachable, match=r"within 0\.3 s"):
        await asked[call]()


@looped
async def test_a_slow_start_of_either_end_is_waited_for(sandbox: RunPodSandbox, intend: Any) -> None:
    runpod, intent = provider(sandbox), intend()
    sandbox.set_faults(
        {"on": "CreatePod", "kind": "cold_start", "seconds": 180},
        {"on": "Proxy", "kind": "http", "status": 502, "times": 3},
    )
    lease = await runpod.create(intent)
    await runpod.start(lease, intent.bundle)
    assert await ended(runpod, lease) is JobState.DONE
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_a_pod_that_nobody_ends_ends_itself(sandbox: RunPodSandbox, intend: Any) -> None:
    """By its own key, which is good for nothing else."""
    runpod, intent = provider(sandbox), intend(lifetime_s=3.0)
    lease = await runpod.create(intent)
    for _ in range(600):
        if not sandbox.things():
            break
        await asyncio.sleep(0.1)
    assert [r.status for r in sandbox.requests("DeletePod")][-1] == 204
    assert (await runpod.poll(lease)).state is JobState.ABSENT
    assert isinstance(await runpod.release(lease), Released)
    machine = sandbox.app.account.machines.get(lease.remote_id)
    assert machine is not None
    assert await runpod.bill(lease) == Cost(NanoUSD(machine.invoice(0.0)), Basis.BILLED)


@looped
async def test_released_is_said_only_when_the_pod_is_gone(sandbox: RunPodSandbox, intend: Any) -> None:
    runpod = provider(sandbox)
    lease = await runpod.create(intend())
    # deleted as it says, and still there
    sandbox.set_faults({"on": "DeletePod", "kind": "odd_body", "text": "{}"})
    answer = await runpod.release(lease)
    assert isinstance(answer, Unconfirmed)
    assert "still says" in answer.reason
    await nothing_left(runpod, lease, sandbox)


@looped
async def test_a_bill_is_told_once_it_can_be_whole(sandbox: RunPodSandbox, intend: Any) -> None:
    runpod = provider(sandbox, bill_s=0.3)
    lease = await runpod.create(intend())
    assert isinstance(await runpod.release(lease), Released)
    assert await runpod.bill(lease) is None
    await asyncio.sleep(0.35)
    assert (await runpod.bill(lease)).basis is Basis.BILLED  # type: ignore[union-attr]
    assert await runpod.bill(dataclasses.replace(lease, remote_id="nobodyhasthis")) is None


@looped
async def test_a_template_serves_instead_of_an_image(sandbox: RunPodSandbox, intend: Any) -> None:
    from accel.providers.transport import Transport

    async with Transport(
        sandbox.url, provider="test", headers={"Authorization": f"Bearer {sandbox.key}"}
    ) as control:
        made = await control.json("POST", "v2/templates", body={"name": "ours", "image": "ours:1"})
    runpod, intent = provider(sandbox, template=made["id"]), intend()
    lease = await runpod.create(intent)
    assert sandbox.things()[0].words["image"] == "ours:1"
    await runpod.start(lease, intent.bundle)
    await nothing_left(runpod, lease, sandbox)


# --- what is asked of it


@pytest.mark.parametrize("how", [
    {"realm": Realm.REAL}, {"endpoint": None}, {"endpoint": "http://example.com"}, {"cloud": "SPOT"},
    {"realm": Realm.SIMULATED},
])  # fmt: skip
def test_realm_and_endpoint_go_together(how: dict[str, Any]) -> None:
    given = {"realm": Realm.SANDBOX, "endpoint": "http://127.0.0.1:1"} | how
    with pytest.raises(SettingsError):
        RunPodProvider(credentials=Credentials("k"), runtime=RUNTIME, token=str, **given)


@looped
async def test_what_cannot_be_rented_is_rejected_without_a_request(
    sandbox: RunPodSandbox, intend: Any
) -> None:
    runpod, intent = provider(sandbox), intend()
    wrong = [
        dataclasses.replace(intent, name="Not A Name"), dataclasses.replace(intent, name="other-1"),
        dataclasses.replace(intent, lifetime_s=1e9),
        dataclasses.replace(intent, offer=dataclasses.replace(L4, id="somebody's")),
        dataclasses.replace(intent, bundle=Path("/nowhere")),
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(Rejected):
            await runpod.create(one)
    assert sandbox.requests() == []


@looped
async def test_the_cheapest_gpu_that_fits_and_is_free_is_offered(sandbox: RunPodSandbox) -> None:
    cheap, big = await provider(sandbox).probe(BATCH), await provider(sandbox).probe(
        dataclasses.replace(BATCH, vram_bytes=70 << 30)
    )
    assert isinstance(cheap, Offer)
    assert isinstance(big, Offer)
    assert (cheap.gpu.name, big.gpu.name) == ("RTX A4000", "A100 80GB SXM")
    assert cheap.rate.nano_per_hour == NANO // 4 + 20 * market.DISK_NANO
    community = await provider(sandbox, cloud="COMMUNITY").probe(BATCH)
    assert isinstance(community, Offer)
    assert community.id == "runpod/sandbox/COMMUNITY/NVIDIA RTX A4000"


@pytest.mark.parametrize(("need", "words"), [
    (dataclasses.replace(BATCH, vram_bytes=150 << 30), "free"),  # only the B200, of which there is none
    (dataclasses.replace(BATCH, vram_bytes=500 << 30), "none of its GPUs"),
    (dataclasses.replace(BATCH, capability=130), "none of its GPUs"),
    (dataclasses.replace(BATCH, only=frozenset({"local"})), "allowed"),
    (dataclasses.replace(BATCH, index="abc"), "no index stays"),
    (Need(Stage.SEARCH, Lane.LIVE, index="abc"), "not here"),
    (Need(Stage.EMBED, Lane.LIVE, vram_bytes=40 << 30), "24 GiB"),
    (Need(Stage.EMBED, Lane.LIVE, capability=90), "compute capability 8."),
])  # fmt: skip
@looped
async def test_what_does_not_fit_is_unfit_in_words(sandbox: RunPodSandbox, need: Need, words: str) -> None:
    found = await provider(sandbox).probe(need)
    assert isinstance(found, Unfit)
    assert words in found.reason


@looped
async def test_without_a_key_nobody_is_asked(sandbox: RunPodSandbox) -> None:
    found = await provider(sandbox, credentials=Credentials()).probe(BATCH)
    assert isinstance(found, Unfit)
    assert found.mendable
    assert sandbox.requests() == []


ROWS = st.fixed_dictionaries({
    "id": st.sampled_from(["NVIDIA L4", "NVIDIA H100 PCIe", "AMD Instinct MI300X OAM", "", "NVIDIA A40"]),
    "memory": st.one_of(st.integers(1, 200), st.none(), st.text(max_size=3)),
    "availability": st.sampled_from(["NONE", "LOW", "HIGH"]), "secure": st.booleans(),
    "price": st.one_of(st.none(), st.fixed_dictionaries({
        "secure": st.one_of(st.floats(0, 10), st.none(), st.just("much"), st.booleans())})),
})  # fmt: skip


@given(st.lists(ROWS, max_size=6), st.integers(0, 100))
def test_whatever_the_catalogue_says_an_offer_fits_and_has_a_price(rows: list[Any], gib: int) -> None:
    need = dataclasses.replace(BATCH, vram_bytes=gib << 30, numerics=Numerics.BF16)
    found = market.choose(rows, need, "SECURE", (), RUNTIME.now().date())
    if isinstance(found, str):
        assert found
    else:
        assert found.gpu.vram_bytes >= need.vram_bytes
        assert found.rate.nano_per_hour > 0
        assert found.rate.source
        assert Numerics.BF16 in found.numerics


@given(st.integers(0, 10**15))
def test_nano_dollars_survive_json(amount: int) -> None:
    import json

    assert nano(json.loads(json.dumps(amount / NANO))) == amount


@pytest.mark.parametrize(("status", "told", "text", "made"), [
    (404, {}, "", Unreachable), (404, {"detail": "pod not found"}, "pod not found", type(None)),
    (400, {"detail": "x"}, "There are no longer any instances available", NoCapacity),
    (400, {"detail": "x"}, "bad request", type(None)), (402, {}, "Insufficient balance", Unauthorised),
])  # fmt: skip
def test_only_runpods_own_words_count(
    status: int, told: dict[str, Any], text: str, made: type[ProviderError] | type[None]
) -> None:
    assert type(_classify(status, told, text)) is made
