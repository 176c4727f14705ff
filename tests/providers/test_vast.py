"""Vast.ai's own promises: no contract is left, a bid is what was reserved, only our machine is spoken to."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stub_end
from hypothesis import given
from hypothesis import strategies as st
from machines import looped
from vast_cloud import asks, intent_on, offer_of, provider_for

from accel import keys
from accel.core.errors import (
    NoCapacity,
    Preempted,
    ProviderError,
    Rejected,
    SettingsError,
    Unauthorised,
    Unreachable,
)  # fmt: skip
from accel.core.lease import Lease, Released, Unconfirmed, Unknown
from accel.core.money import Basis
from accel.core.offer import Offer, Realm, Unfit
from accel.core.task import Lane, Need, Numerics, Stage
from accel.providers.base import JobState, RunsBatch, ServesLive, TellsBill
from accel.providers.vast import VastProvider
from accel.providers.vast_calls import seal, unseal
from accel.providers.vast_machine import ONSTART_CHARS, UNSEAL
from accel.providers.vast_offers import Wishes, quotes
from accel.sandbox.vast import VastSandbox
from accel.sandbox.vast_market import NANO
from accel.wire import Envelope, pack_texts
from accel.worker import start

BATCH, LIVE = Need(Stage.EMBED, Lane.BATCH), Need(Stage.EMBED, Lane.LIVE)


async def offered(provider: VastProvider, need: Need = BATCH) -> Offer:
    found = await provider.probe(need)
    assert isinstance(found, Offer), found
    return found


async def rented(vast: VastSandbox, provider: VastProvider, folder: Path | None = None, **how: Any) -> Lease:
    return await provider.create(intent_on(offer_of(asks(vast)[0]), folder, **how))


async def ended(provider: VastProvider, lease: Lease) -> JobState:
    async with asyncio.timeout(30):
        while not (progress := await provider.poll(lease)).state.terminal:  # noqa: ASYNC110
            await asyncio.sleep(0.03)
    return progress.state


def test_what_it_is(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    for meets in (RunsBatch, ServesLive, TellsBill):
        assert isinstance(provider, meets)
    for wrong in ({"endpoint": None}, {"realm": Realm.REAL}, {"endpoint": "http://192.0.2.1:80"}):
        with pytest.raises(SettingsError):
            provider_for(vast, **wrong)


# --- the market


@looped
async def test_the_cheapest_work_is_offered_and_never_what_is_taken(vast: VastSandbox) -> None:
    taken: set[str] = set()
    provider, seen = provider_for(vast, taken=lambda: frozenset(taken)), []
    for _ in range(6):
        offer = await offered(provider, LIVE)
        assert offer.exclusive
        assert not offer.interruptible
        row = next(r for r in vast.app.instances.market.search({}) if f"vast/{r['id']}" == offer.id)
        assert row["verified"]
        assert row["direct_port_count"]
        seen.append(offer.rate.nano_per_hour / row["dlperf"])
        taken.add(offer.id)
    assert seen == sorted(seen)
    assert len(taken) == 6


@looped
async def test_an_offer_says_what_is_bid_what_the_disk_costs_and_what_is_left(vast: VastSandbox) -> None:
    provider = provider_for(vast, taken=frozenset)
    offer = await offered(provider)
    assert offer.interruptible
    for said in ("a bid of the least one × 1.1", "24 GB of disk", "a stopped machine costs too",
                 "credit left $25.00", "DLPerf", "traffic"):  # fmt: skip
        assert said in offer.source
    lease = await provider.create(intent_on(offer))
    (thing,) = vast.things()
    assert round(thing["dph_total"] * NANO) == offer.rate.nano_per_hour
    assert thing["dph_base"] == pytest.approx(1.1 * thing["min_bid"], rel=0.01)
    assert lease.remote_id == str(thing["id"])


@looped
async def test_another_process_bids_what_was_reserved(vast: VastSandbox) -> None:
    intent = intent_on(await offered(provider_for(vast)))
    await provider_for(vast).create(intent)  # knows nothing of the search
    assert round(vast.things()[0]["dph_total"] * NANO) == intent.offer.rate.nano_per_hour


@looped
async def test_arithmetic_and_memory_are_asked_of_the_market(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    for need in (
        Need(Stage.EMBED, Lane.BATCH, numerics=Numerics.BF16),
        Need(Stage.EMBED, Lane.BATCH, capability=90),
        Need(Stage.EMBED, Lane.BATCH, vram_bytes=70 << 30),
    ):
        offer = await offered(provider, need)
        assert need.numerics in offer.numerics
        assert offer.gpu.capability >= need.capability
        assert offer.gpu.vram_bytes >= need.vram_bytes
    for need in (
        Need(Stage.EMBED, Lane.BATCH, vram_bytes=200 << 30),
        Need(Stage.SEARCH, Lane.LIVE, index="nobody has it"),
        Need(Stage.EMBED, Lane.BATCH, only=frozenset({"kaggle"})),
    ):
        assert isinstance(await provider.probe(need), Unfit)


VALUES = st.none() | st.booleans() | st.integers(-5, 2000) | st.floats() | st.text(max_size=5)


FIELDS = (
    "id", "gpu_name", "gpu_ram", "compute_cap", "storage_cost", "storage_total_cost", "dph_total", "min_bid",
    "dlperf", "inet_down", "rentable", "num_gpus", "direct_port_count", "reliability", "verified",
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES)), st.booleans())
def test_whatever_the_market_tells_only_what_fits_is_quoted(rows: list[dict[str, Any]], bid: bool) -> None:
    good = {
        "id": 7, "gpu_name": "L4", "gpu_ram": 23034, "compute_cap": 890, "storage_cost": 0.2,
        "dph_total": 0.5, "min_bid": 0.25, "dlperf": 36.0, "inet_down": 900.0, "rentable": True,
        "num_gpus": 1, "direct_port_count": 3, "reliability": 0.99, "verified": True,
    }  # fmt: skip
    need = Need(Stage.EMBED, Lane.BATCH, vram_bytes=16 << 30, numerics=Numerics.BF16)
    found = quotes([*rows, *({**good, **row} for row in rows), good], need, Wishes(), bid=bid)
    assert any(q.ask == 7 for q in found)
    assert [q.per_work for q in found] == sorted(q.per_work for q in found)
    for quote in found:
        assert quote.gpu.capability >= 80
        assert quote.gpu.vram_bytes >= need.vram_bytes
        assert quote.total > 0
        assert (quote.bid is not None) == bid
        assert not bid or quote.bid + quote.disk == quote.total
    assert not quotes([good], need, Wishes(), bid=bid, taken={"vast/7"})


# --- what must not be left


@looped
async def test_the_contract_of_a_bid_too_low_is_destroyed(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    intent = intent_on(await offered(provider))
    vast.compete(int(intent.offer.id.removeprefix("vast/")), 5.0)  # somebody was faster
    with pytest.raises(NoCapacity, match="The contract it left was destroyed"):
        await provider.create(intent)
    assert vast.app.machines.all()  # there was one
    assert vast.things() == []
    assert await provider.find(intent) is None


@looped
async def test_one_that_cannot_be_destroyed_now_is_found_and_released_later(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    intent = intent_on(await offered(provider))
    vast.compete(int(intent.offer.id.removeprefix("vast/")), 5.0)
    vast.set_faults({"on": "DestroyInstance", "kind": "http", "status": 503, "times": 2})
    with pytest.raises(Unreachable, match="cannot be destroyed"):
        await provider.create(intent)
    lease = await provider.find(intent)
    assert lease is not None
    assert [known.name for known in await provider.leases()] == [intent.name]  # type: ignore[union-attr]
    with pytest.raises(Preempted):  # stopped: and now an attempt fails to destroy it
        await provider.start(lease)
    assert isinstance(await provider.release(lease), Released)
    assert vast.things() == []


@looped
async def test_a_price_that_rose_since_the_offer_is_not_paid(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    offer = await offered(provider, LIVE)
    vast.set_price(int(offer.id.removeprefix("vast/")), 9.0)
    lease = await provider.create(intent_on(offer))
    with pytest.raises(NoCapacity, match=r"costs \$9\.01 an hour, and was offered for"):
        await provider.start(lease)
    assert vast.things() == []


@pytest.mark.parametrize("how", ["never", "exited", "unknown", "offline", "created"])
@looped
async def test_a_machine_that_never_comes_up_is_destroyed(vast: VastSandbox, how: str) -> None:
    provider = provider_for(vast, boot_s=0.5 if how == "never" else 20)
    vast.set_cold(None)
    lease = await rented(vast, provider)
    if how != "never":
        vast.set_status(lease.remote_id, how, "x: OCI runtime create failed: y")
    with pytest.raises(NoCapacity, match="given up") as caught:
        await provider.start(lease)
    assert ("loading" in str(caught.value)) == (how == "never")
    assert vast.things() == []
    assert isinstance(await provider.release(lease), Released)  # once more, whoever does not know


@looped
async def test_who_is_outbid_is_preempted_and_pays_for_no_disk(vast: VastSandbox, tmp_path: Path) -> None:
    provider = provider_for(vast)
    lease = await provider.create(intent_on(await offered(provider), tmp_path, 20))
    await provider.start(lease)
    assert (await provider.poll(lease)).state is JobState.RUNNING
    vast.outbid(lease.remote_id)
    assert vast.things()[0]["cur_state"] == "stopped"
    with pytest.raises(Preempted):
        await provider.poll(lease)
    assert vast.things() == []
    assert (await provider.poll(lease)).state is JobState.ABSENT


@looped
async def test_preempted_between_finish_and_fetch(vast: VastSandbox, tmp_path: Path) -> None:
    provider = provider_for(vast)
    lease = await rented(vast, provider, tmp_path)
    await provider.start(lease)
    assert await ended(provider, lease) is JobState.DONE
    vast.outbid(lease.remote_id)
    for _ in range(2):
        with pytest.raises(Preempted):
            await provider.fetch(lease, tmp_path / "home")
    assert vast.things() == []


@looped
async def test_release_sees_to_twins_and_believes_no_word_alone(vast: VastSandbox) -> None:
    provider = provider_for(vast, call_s=0.5)
    first, second = asks(vast)[:2]
    intent = intent_on(offer_of(first))
    lease = await provider.create(intent)
    vast.stick(lease.remote_id)
    answer = await provider.release(lease)
    assert isinstance(answer, Unconfirmed)
    assert "still shows it" in answer.reason
    vast.stick(lease.remote_id, False)
    await provider.create(replace(intent, offer=offer_of(second)))  # what two lost answers can leave
    assert [thing["label"] for thing in vast.things()] == [lease.name] * 2
    assert isinstance(await provider.release(lease), Released)
    assert vast.things() == []


# --- listings


@looped
async def test_every_page_is_read_and_only_ours_are_leases(vast: VastSandbox) -> None:
    vast.set_cold(None)
    provider, other = provider_for(vast), provider_for(vast)
    names = set()
    for ask in asks(vast)[:27]:  # a page holds 25
        lease = await other.create(intent_on(offer_of(ask)))
        names.add(lease.name)
    vast._machine(lease.remote_id).name = "somebody else's"
    names.remove(lease.name)
    vast.outbid(next(iter(vast.things()))["id"])  # a stopped one is ours, too
    listed = await provider.leases()
    assert not isinstance(listed, Unknown)
    assert {one.name for one in listed} == names
    for one in listed:
        assert abs((one.ends_by - one.created_at).total_seconds() - 120) < 5  # as its machine was told


@pytest.mark.parametrize("body", [
    "", "[]", "{}", '{"instances": null, "total_instances": 0}', '{"instances": []}',
    '{"instances": [], "total_instances": 3}', '{"instances": [{}], "total_instances": 1}',
    '{"instances": [7], "total_instances": 1}', '{"instances": {}, "total_instances": 0}',
])  # fmt: skip
@looped
async def test_an_odd_list_is_unknown_and_never_none(vast: VastSandbox, body: str) -> None:
    provider = provider_for(vast)
    lease = await rented(vast, provider)
    vast.set_faults({"on": "ListInstances", "kind": "odd_body", "text": body, "times": 0})
    assert isinstance(await provider.leases(), Unknown)
    assert isinstance(await provider.release(lease), Unconfirmed)
    with pytest.raises(Unreachable):
        await provider.find(intent_on(offer_of(1)))


@looped
async def test_a_list_that_lacks_what_we_ordered_is_unknown(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    lease = await rented(vast, provider)
    empty = '{"instances": [], "total_instances": 0, "next_token": null}'
    vast.set_faults({"on": "ListInstances", "kind": "odd_body", "text": empty, "times": 0})
    found = await provider.leases()
    assert isinstance(found, Unknown)
    assert lease.remote_id in found.reason
    vast.set_faults()
    await provider_for(vast).release(lease)  # another process
    assert await provider.leases() == ()


@looped
async def test_an_order_just_made_may_not_be_listed_yet(vast: VastSandbox) -> None:
    provider = provider_for(vast, settle_s=30)
    with pytest.raises(Unreachable) as caught:
        await provider.find(intent_on(offer_of(asks(vast)[0])))
    assert 25 < (caught.value.retry_after_s or 0) <= 30


# --- money


@looped
async def test_the_bill_is_the_invoice_disk_while_stopped_and_all(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    leases = [await provider.create(intent_on(offer_of(ask))) for ask in asks(vast)[:2]]
    assert await provider.bill(leases[0]) is None
    vast.outbid(leases[0].remote_id)
    await asyncio.sleep(0.2)
    total = 0
    for lease in leases:
        await provider.release(lease)
        bill = await provider.bill(lease)
        assert bill is not None
        assert bill.basis is Basis.BILLED
        total += bill.amount
    assert total == vast.invoice_nano() > 0
    assert await provider.balance() == 25 * NANO - total


@looped
async def test_without_credit_there_is_no_order_and_a_person_is_told(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    offer = await offered(provider)
    vast.set_credit(0)
    with pytest.raises(Unauthorised, match="Add credit") as caught:
        await provider.create(intent_on(offer))
    assert "lacks credit" in str(caught.value)
    found = await provider_for(vast).probe(BATCH)
    assert isinstance(found, Unfit)
    assert found.mendable
    assert isinstance(await provider_for(vast, key="").probe(BATCH), Unfit)


# --- the machine


@looped
async def test_a_machine_ends_itself_with_its_own_key(vast: VastSandbox) -> None:
    idle = provider_for(vast, idle_s=1.5)
    kept = await rented(vast, idle)
    await idle.start(kept)
    short = await rented(vast, provider_for(vast), lifetime_s=3)
    async with asyncio.timeout(30):
        while vast.things():  # noqa: ASYNC110 - what changes is outside of this loop
            await asyncio.sleep(0.1)
    assert (await idle.poll(kept)).state is JobState.ABSENT
    assert (await idle.poll(short)).state is JobState.ABSENT
    assert len(vast.requests("DestroyInstance")) == 2  # theirs, not ours


@looped
async def test_a_successor_carries_on_with_what_it_finds(vast: VastSandbox, tmp_path: Path) -> None:
    intent = intent_on(offer_of(asks(vast)[0]), tmp_path, 0.3)
    vast.set_faults({"on": "CreateInstance", "kind": "lost_answer"})
    with pytest.raises(Unreachable):
        await provider_for(vast).create(intent)
    lease = await provider_for(vast).find(intent)
    assert lease is not None
    for _ in range(2):
        await provider_for(vast).start(lease, intent.bundle)  # safe to repeat
    assert await ended(provider_for(vast), lease) is JobState.DONE
    fetched = await provider_for(vast).fetch(lease, tmp_path / "home")
    assert set(fetched.files) == {"result.json"}
    assert isinstance(await provider_for(vast).release(lease), Released)


@looped
async def test_a_silent_control_plane_does_not_end_a_start(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    lease = await rented(vast, provider)
    vast.set_faults({"on": "GetInstance", "kind": "http", "status": 502, "times": 4},
                    {"on": "GetInstance", "kind": "drop", "times": 2})  # fmt: skip
    await provider.start(lease)
    vast.set_faults({"on": "*", "kind": "hang", "times": 0})
    with pytest.raises(Unreachable, match=r"no answer within 0\.3 s"):
        await provider_for(vast, call_s=0.3).poll(lease)


@looped
async def test_another_machines_certificate_is_not_taken(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    lease = await rented(vast, provider)
    await provider.start(lease)
    other = stub_end.certificate.__wrapped__()
    stranger = provider_for(vast, certificate=lambda _: other, boot_s=1)
    with pytest.raises(Unreachable):
        await stranger.call(lease, Envelope("t", {"stage": "embed"}, pack_texts(["a"])))
    with pytest.raises(Unauthorised):
        await provider_for(vast, token=lambda _: "x" * 32).poll(lease)
    port = vast.things()[0]["ports"]["8000/tcp"][0]["HostPort"]
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", int(port)))
    assert shown.split() == stub_end.certificate()[0].split()


@looped
async def test_any_process_of_this_home_speaks_to_a_lease(vast: VastSandbox, tmp_path: Path) -> None:
    ways: dict[str, Any] = {
        "token": lambda name: keys.lease_token(tmp_path, name),
        "certificate": lambda name: keys.lease_certificate(tmp_path, name),
    }
    lease = await rented(vast, provider_for(vast, **ways))
    await provider_for(vast, **ways).start(lease)
    assert (await provider_for(vast, **ways).poll(lease)).message == ""
    elsewhere = {**ways, "certificate": lambda name: keys.lease_certificate(tmp_path / "other", name)}
    with pytest.raises(Unreachable):
        await provider_for(vast, **elsewhere).poll(lease)


@looped
async def test_a_live_call_and_an_outbid_in_the_middle(vast: VastSandbox, tmp_path: Path) -> None:
    blob = tmp_path / "index"
    blob.write_bytes(b"i" * 50_000)
    asked: list[str] = []

    def blobs(name: str) -> Path:
        asked.append(name)
        return blob

    provider = provider_for(vast, blobs=blobs)
    lease = await rented(vast, provider)
    with pytest.raises(Unreachable, match=r"the instance is (provisioning|loading)"):
        await provider.call(lease, Envelope("t", {"stage": "embed"}, pack_texts(["a"])))
    await provider.start(lease)
    request = Envelope("t", {"stage": "search"}, pack_texts(["a"]), {"index": "f00d"})
    for _ in range(2):
        assert (await provider.call(lease, request)).task_id == "t"
    seen = len(vast.requests("GetInstance"))
    await provider.call(lease, request)
    assert len(vast.requests("GetInstance")) == seen  # a live call asks the machine alone
    assert set(asked) == {"f00d"}
    vast.outbid(lease.remote_id)
    with pytest.raises(Preempted):
        await provider.call(lease, request)
    assert vast.things() == []


# --- secrets and the order


def test_the_start_command_fits_and_an_environment_travels_as_one_word() -> None:
    assert len(UNSEAL + start.source()) <= ONSTART_CHARS
    env = {"ACCEL_CERT": "-----BEGIN\nx y\n'\"$(z)\n", "ACCEL_END": '{"a": "b c"}'}
    assert unseal(seal(env)) == env
    assert seal(env).isascii()
    assert not set(seal(env)) & set(" \n'\"$")
    assert unseal("no such thing") == unseal(seal({})) == {}


@looped
async def test_no_secret_is_on_disk_or_in_an_error(vast: VastSandbox, tmp_path: Path) -> None:
    provider = provider_for(vast)
    lease = await rented(vast, provider, tmp_path)
    await provider.start(lease)
    await ended(provider, lease)
    secrets = [vast.key, stub_end.TOKEN, stub_end.certificate()[1].splitlines()[1]]
    for file in vast.app.machines.root.rglob("*"):
        if file.is_file() and file.name != "account.json":
            held = file.read_bytes()
            assert not any(secret.encode() in held for secret in secrets), file
    shown = repr(provider) + str(vars(provider)) + vast.log(lease.remote_id)
    vast.set_faults({"on": "*", "kind": "http", "status": 400, "text": f"error: {vast.key}", "times": 0})
    with pytest.raises(ProviderError) as caught:
        await provider.poll(lease)
    assert not any(secret in shown + str(caught.value) for secret in secrets)


@looped
async def test_what_is_no_order_for_it_is_rejected(vast: VastSandbox) -> None:
    provider = provider_for(vast)
    with pytest.raises(Rejected):
        await provider.create(intent_on(replace(offer_of(1), id="kaggle-t4")))
    with pytest.raises(NoCapacity, match="no_such_ask"):
        await provider.create(intent_on(offer_of(12345)))
    used = asks(vast)[0]
    await provider.create(intent_on(offer_of(used)))
    with pytest.raises(NoCapacity):  # 410: an ask makes one contract
        await provider.create(intent_on(offer_of(used)))
    assert len(vast.things()) == 1
