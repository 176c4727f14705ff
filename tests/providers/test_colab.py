"""What is Colab's own: who must be there, tokens that end, runtimes that go, refusals that come late.

Nothing is started behind a runtime until it is asked for something (``eager=False``), so that only the tests
about jobs wait for a Jupyter server; those share one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from colab_cloud import RUNTIME, intent_on, provider_for
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core.errors import (
    BadOutput,
    NoCapacity,
    Preempted,
    ProviderError,
    QuotaExhausted,
    Rejected,
    SettingsError,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Lease, Released, Unconfirmed, Unknown
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.task import Lane, Need, Numerics, Stage
from accel.providers.base import JobState, Provider, RunsBatch, ServesLive
from accel.providers.colab import ColabProvider
from accel.providers.colab_auth import ColabCredentials
from accel.providers.colab_calls import Account, refusal, request_id
from accel.providers.colab_offers import UnitRate
from accel.sandbox.colab import ColabSandbox

BATCH = Need(Stage.EMBED, Lane.BATCH)


@pytest.fixture(scope="module")
def served() -> Iterator[ColabSandbox]:
    with ColabSandbox(time_scale=10_000, cold_s=0.0, eager=False) as running:
        yield running


@pytest.fixture
def cloud(served: ColabSandbox) -> ColabSandbox:
    served.reset()
    return served


def probed(provider: ColabProvider, need: Need = BATCH) -> Offer | Unfit:
    return asyncio.run(provider.probe(need))


def reason(provider: ColabProvider, need: Need = BATCH) -> str:
    found = probed(provider, need)
    assert isinstance(found, Unfit), found
    return found.reason


def an_offer(provider: ColabProvider, need: Need = BATCH) -> Offer:
    found = probed(provider, need)
    assert isinstance(found, Offer), found
    return found


async def ended(colab: ColabProvider, lease: Lease) -> JobState:
    async with asyncio.timeout(100):
        while True:
            progress = await colab.poll(lease)
            if progress.state.terminal:
                return progress.state
            await asyncio.sleep(0.05)


# --- what it is


def test_it_is_a_batch_provider_and_cannot_serve(cloud: ColabSandbox) -> None:
    colab = provider_for(cloud)
    assert isinstance(colab, Provider)
    assert isinstance(colab, RunsBatch)
    assert not isinstance(colab, ServesLive)


@pytest.mark.parametrize(
    ("realm", "endpoint"),
    [(Realm.REAL, "http://127.0.0.1:1"), (Realm.SANDBOX, None), (Realm.SIMULATED, None),
     (Realm.SANDBOX, "https://colab.example.org")],
)  # fmt: skip
def test_a_realm_cannot_be_mislabelled(realm: Realm, endpoint: str | None) -> None:
    with pytest.raises(SettingsError):
        ColabProvider(
            credentials=ColabCredentials("t"), runtime=RUNTIME, realm=realm, endpoint=endpoint
        )


@pytest.mark.parametrize(
    ("need", "words"),
    [(replace(BATCH, lane=Lane.LIVE), "web services"), (replace(BATCH, index="abc"), "index"),
     (replace(BATCH, only=frozenset({"local"})), "allowed")],
)  # fmt: skip
def test_an_unfit_need_is_told_without_a_request(cloud: ColabSandbox, need: Need, words: str) -> None:
    assert words in reason(provider_for(cloud), need)
    assert cloud.requests() == []


def test_without_credentials_the_reason_names_the_variable(cloud: ColabSandbox) -> None:
    assert "COLAB_API_KEY" in reason(provider_for(cloud, credentials=ColabCredentials()))


# --- who must be there


def test_nobody_there_and_no_balance_is_unfit_with_the_clause(cloud: ColabSandbox) -> None:
    alone = provider_for(cloud, confirm=None, accepted_terms=("colab/unattended",))
    for tier, balance, shown in (("FREE", 0.0, "is 0,"), ("PRO", 0.0, "is 0,"), ("PRO", None, "unknown"),
                                 ("", None, "unknown")):  # fmt: skip
        cloud.set_account(tier, balance)
        alone = provider_for(cloud, confirm=None, accepted_terms=("colab/unattended",))
        found = probed(alone)
        assert isinstance(found, Unfit)
        assert found.mendable
        for word in (shown, "--attended", "no distributed computing workers", "faq.html", "2026-11-23"):
            assert word in found.reason


def test_a_balance_lets_it_run_unattended_once_that_term_is_accepted(cloud: ColabSandbox) -> None:
    cloud.set_account("FREE", 12.5)  # pay as you go
    assert "accept before unattended use" in reason(provider_for(cloud, confirm=None, accepted_terms=()))
    alone = provider_for(cloud, confirm=None, accepted_terms=("colab/unattended",))
    assert isinstance(probed(alone), Offer)


@pytest.mark.parametrize("confirm", [None, lambda _: False])
def test_a_free_runtime_is_never_begun_without_a_yes(
    cloud: ColabSandbox, tmp_path: Path, confirm: Callable[[str], bool] | None
) -> None:
    colab = provider_for(cloud, confirm=confirm)
    with pytest.raises(Rejected, match=r"attend|said no"):
        asyncio.run(colab.create(intent_on(tmp_path)))
    assert cloud.requests("CreateRuntime") == []


def test_each_free_runtime_is_asked_for_and_one_with_a_balance_is_not(
    cloud: ColabSandbox, tmp_path: Path
) -> None:
    asked: list[str] = []
    colab = provider_for(cloud, confirm=lambda question: asked.append(question) or True)

    async def scenario() -> None:
        for _ in range(2):
            lease = await colab.create(intent_on(tmp_path))
            assert isinstance(await colab.release(lease), Released)

    asyncio.run(scenario())
    assert len(asked) == 2
    assert "tier Free, compute units left 0" in asked[0]
    cloud.set_account("PRO", 3.0)
    paid = provider_for(cloud, confirm=lambda question: asked.append(question) or True)
    asyncio.run(paid.create(intent_on(tmp_path)))
    assert len(asked) == 2


def test_free_is_one_runtime_at_once_whoever_made_it(cloud: ColabSandbox, tmp_path: Path) -> None:
    first, other = provider_for(cloud), provider_for(cloud)
    asyncio.run(first.create(intent_on(tmp_path)))
    assert "one runtime at once" in reason(other)
    with pytest.raises(NoCapacity, match="TOO_MANY"):
        asyncio.run(other.create(intent_on(tmp_path)))
    cloud.set_account("PRO", 3.0)
    assert isinstance(probed(provider_for(cloud)), Offer)


# --- offers


def test_an_unknown_balance_is_shown_as_unknown_and_never_as_hours(cloud: ColabSandbox) -> None:
    cloud.set_account("PRO", None)
    offer = an_offer(provider_for(cloud))
    assert "compute units left not told" in offer.rate.source
    assert (offer.billing, offer.quota_left_s) == (Billing.QUOTA, None)


def test_a_balance_is_hours_by_a_rate_with_its_day_and_source(cloud: ColabSandbox) -> None:
    cloud.set_account("PRO", 10.0)
    units = {"T4": UnitRate(2.5, date(2026, 11, 1), "my own account")}
    offer = an_offer(provider_for(cloud, units=units))
    assert offer.quota_left_s == 4 * 3600
    assert "2.5 units an hour (my own account, 2026-11-01)" in offer.rate.source
    assert an_offer(provider_for(cloud, units={})).quota_left_s is None
    assert "compute units left 10" in an_offer(provider_for(cloud, units={})).rate.source
    shipped = an_offer(provider_for(cloud))
    assert "2022-09-30" in shipped.rate.source


def test_the_cheapest_accelerator_that_fits_and_is_open_to_the_account(cloud: ColabSandbox) -> None:
    cloud.set_account("PRO", 10.0)
    for need, gpu in ((BATCH, "T4"), (replace(BATCH, numerics=Numerics.BF16), "L4"),
                      (replace(BATCH, vram_bytes=30 << 30), "A100 40GB")):  # fmt: skip
        assert an_offer(provider_for(cloud), need).gpu.name == gpu
    assert "none that fits" in reason(provider_for(cloud), replace(BATCH, vram_bytes=60 << 30))
    cloud.set_account("FREE", 0.0)
    assert "it may have T4" in reason(provider_for(cloud), replace(BATCH, capability=80))


def test_an_ineligible_accelerator_is_refused_by_colab_in_its_words(
    cloud: ColabSandbox, tmp_path: Path
) -> None:
    with pytest.raises(Rejected, match="NOT_ELIGIBLE: You are not eligible"):
        asyncio.run(provider_for(cloud).create(intent_on(tmp_path, accelerator="A100")))
    assert cloud.things() == []


# --- the order


def test_an_order_repeated_is_the_same_runtime(cloud: ColabSandbox, tmp_path: Path) -> None:
    intent = intent_on(tmp_path)

    async def scenario() -> None:
        first = await provider_for(cloud).create(intent)
        assert await provider_for(cloud).create(intent) == first  # another process, the same request

    asyncio.run(scenario())
    assert cloud.things() == [intent.name]


@settings(max_examples=20)
@given(st.text(min_size=1))
def test_request_ids_are_of_the_form_that_the_document_asks_for(name: str) -> None:
    assert UUID(request_id(name)).version == 4
    assert request_id(name) == request_id(name)
    assert request_id(name) != request_id(name + "x")


def test_a_refusal_that_comes_with_the_operation_is_typed(cloud: ColabSandbox, tmp_path: Path) -> None:
    for kind, text, error in (
        ("session_count", "", NoCapacity), ("quota_exhausted", "", QuotaExhausted),
        ("refuse_push", "GPU_STOCKOUT", NoCapacity), ("refuse_push", "SOMETHING_NEW", NoCapacity),
    ):  # fmt: skip
        cloud.set_faults({"on": "CreateRuntime", "kind": kind, "text": text})
        with pytest.raises(error):
            asyncio.run(provider_for(cloud).create(intent_on(tmp_path)))


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, Unreachable), (3, Rejected), (4, Unreachable), (7, Unauthorised), (8, QuotaExhausted),
     (9, NoCapacity), (13, Unreachable), (14, NoCapacity), (16, Unauthorised), (None, Unreachable)],
)  # fmt: skip
def test_every_code_has_a_class(code: int | None, error: type[ProviderError]) -> None:
    assert type(refusal({"code": code, "message": "words"})) is error


def test_a_runtime_that_never_comes_up_is_given_up_in_time(cloud: ColabSandbox, tmp_path: Path) -> None:
    cloud.set_faults({"on": "CreateRuntime", "kind": "cold_start", "seconds": 0})
    colab = provider_for(cloud, boot_s=0.3, call_s=0.5)

    async def scenario() -> None:
        lease = await colab.create(intent_on(tmp_path))
        with pytest.raises(NoCapacity, match=r"not up within 0\.3 s"):
            await colab.start(lease)
        # it cannot be unassigned while it is being made, and that is said
        assert isinstance(await colab.release(lease), Unconfirmed)
        assert isinstance(await colab.leases(), Unknown)

    asyncio.run(scenario())


def test_silence_about_a_young_order_is_not_taken_for_none(cloud: ColabSandbox, tmp_path: Path) -> None:
    """Another process, which does not know the operation, meets a runtime that is still being made."""
    cloud.set_cold(5_000.0)  # half a second
    intent = intent_on(tmp_path)

    async def scenario() -> None:
        await provider_for(cloud).create(intent)
        successor = provider_for(cloud, settle_s=30.0, call_s=5.0)
        with pytest.raises(Unreachable, match="may not be shown yet") as caught:
            await successor.find(intent)
        assert 1 <= (caught.value.retry_after_s or 0) <= 30
        found = None
        while found is None:
            await asyncio.sleep(0.1)
            with contextlib.suppress(Unreachable):
                found = await successor.find(intent)
        assert isinstance(await successor.release(found), Released)

    asyncio.run(scenario())
    assert cloud.things() == []


def test_a_release_waits_for_what_is_being_made(cloud: ColabSandbox, tmp_path: Path) -> None:
    cloud.set_cold(5_000.0)
    colab = provider_for(cloud)

    async def scenario() -> None:
        lease = await colab.create(intent_on(tmp_path))
        assert isinstance(await colab.release(lease), Released)

    asyncio.run(scenario())
    assert cloud.things() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"name": "accel-Ä"}, "no name of a runtime"), ({"name": "accel-" + "a" * 60}, "no name of a runtime"),
     ({"name": "other-1"}, "no name of a runtime"), ({"bundle": None}, "bundles"),
     ({"lifetime_s": 20 * 3600.0}, "hours")],
)  # fmt: skip
def test_what_colab_would_refuse_is_refused_before_a_request(
    cloud: ColabSandbox, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Rejected, match=words):
        asyncio.run(provider_for(cloud).create(replace(intent_on(tmp_path), **changes)))
    assert cloud.requests() == []


def test_a_list_that_lacks_what_is_there_is_unknown(cloud: ColabSandbox, tmp_path: Path) -> None:
    colab = provider_for(cloud)

    async def scenario() -> None:
        await colab.create(intent_on(tmp_path))
        cloud.set_faults({"on": "ListRuntimes", "kind": "odd_body", "text": "{}"})
        assert isinstance(await colab.leases(), Unknown)
        assert len(await colab.leases()) == 1

    asyncio.run(scenario())


# --- signing in


def user(cloud: ColabSandbox) -> ColabCredentials:
    return ColabCredentials("", cloud.refresh_token, cloud.client_id, cloud.client_secret)


def test_an_authorised_user_signs_in_with_tokens_that_are_renewed(cloud: ColabSandbox) -> None:
    late = [timedelta()]

    def now() -> datetime:
        return RUNTIME.now() + late[0]

    colab = provider_for(cloud, credentials=user(cloud), runtime=replace(RUNTIME, now=now))

    async def scenario() -> None:
        for hours in (0, 0, 2):
            late[0] = timedelta(hours=hours)
            assert await colab.leases() == ()

    asyncio.run(scenario())
    assert len(cloud.requests("Token")) == 2


def test_a_withdrawn_sign_in_says_what_to_do_and_shows_nothing(cloud: ColabSandbox) -> None:
    cloud.revoke()
    for credentials, words in (
        (user(cloud), "gcloud auth application-default login"),
        (ColabCredentials(cloud.key), "lasts an hour"),
    ):  # fmt: skip
        found = probed(provider_for(cloud, credentials=credentials))
        assert isinstance(found, Unfit)
        assert found.mendable
        assert words in found.reason
        for secret in (cloud.key, cloud.refresh_token, cloud.client_secret):
            assert secret not in found.reason + repr(credentials)


def test_a_token_that_was_refused_is_fetched_anew_by_the_next_call(cloud: ColabSandbox) -> None:
    colab = provider_for(cloud, credentials=user(cloud))

    async def scenario() -> None:
        assert await colab.leases() == ()
        for token in list(cloud.app.account.tokens):
            cloud.app.account.tokens[token] = 0.0  # they have ended, earlier than was told
        assert isinstance(await colab.leases(), Unknown)
        assert await colab.leases() == ()

    asyncio.run(scenario())
    cloud.app.account.tokens[cloud.key] = None


# --- jobs


def test_a_job_meets_what_can_go_wrong_and_comes_home_whole(cloud: ColabSandbox, tmp_path: Path) -> None:
    """One runtime: begun twice, its token ended in the middle, its files spoiled on the way, then whole."""
    intent = intent_on(tmp_path, 1.0, mib=17)
    colab = provider_for(cloud, call_s=90)
    big = bytes(range(256)) * 4096 * 17  # three parts

    async def scenario() -> None:
        lease = await colab.create(intent)
        await colab.start(lease)
        await colab.start(lease)  # nothing more is begun
        assert (await colab.poll(lease)).state is JobState.RUNNING
        cloud.expire(intent.name)
        before = len(cloud.requests("GetRuntime"))
        assert (await colab.poll(lease)).state in (JobState.RUNNING, JobState.DONE)
        assert len(cloud.requests("GetRuntime")) == before + 1  # 401, a new token, and once more
        # another process, which knows the intent alone
        successor = provider_for(cloud, call_s=90)
        assert await successor.find(intent) == lease
        await successor.start(lease, intent.bundle)
        assert await ended(successor, lease) is JobState.DONE
        for kind in ("truncated", "corrupted", "missing"):
            cloud.set_faults({"on": "Download", "kind": kind, "after": 1})
            with pytest.raises(BadOutput):
                await successor.fetch(lease, tmp_path / "home")
            assert list((tmp_path / "home").glob("*big*")) == []
        cloud.set_faults()
        fetched = await successor.fetch(lease, tmp_path / "home")
        assert fetched.files["big.bin"].read_bytes() == big
        assert set(fetched.files) == {"big.bin", "result.json"}
        assert "the job speaks" in fetched.log
        assert fetched.log.count("the job speaks") == 1
        cloud.reclaim(intent.name)  # and now it is gone
        with pytest.raises(Preempted, match="took the runtime away"):
            await successor.poll(lease)
        assert isinstance(await successor.release(lease), Released)
        assert await successor.poll(lease) == await colab_absent(successor, lease)

    asyncio.run(scenario())
    wire = str(cloud.requests())
    assert cloud.key not in wire
    assert len(cloud.requests("Channels")) == 1


async def colab_absent(colab: ColabProvider, lease: Lease) -> Any:
    progress = await colab.poll(lease)
    assert progress.state is JobState.ABSENT
    return progress


@pytest.mark.conformance
def test_a_job_that_fails_and_one_that_outlives_its_time(cloud: ColabSandbox, tmp_path: Path) -> None:
    cloud.set_account("PRO", 9.0)
    colab = provider_for(cloud, call_s=90)
    bad, slow = intent_on(tmp_path, 0.0, fails=True), intent_on(tmp_path, 60.0, lifetime_s=2.0)

    async def scenario() -> None:
        leases = [await colab.create(bad), await colab.create(slow)]
        for lease in leases:
            await colab.start(lease)
        told = []
        for lease in leases:
            assert await ended(colab, lease) is JobState.FAILED
            told.append((await colab.poll(lease)).message)
        assert told == ["the job ended with exit code 1", "its lifetime of 2 s was over"]

    asyncio.run(scenario())


def test_a_bundle_that_is_none_is_told_before_the_runtime_is_used(
    cloud: ColabSandbox, tmp_path: Path
) -> None:
    intent = intent_on(tmp_path)
    assert intent.bundle is not None
    (intent.bundle / "job.json").write_text("{")

    async def scenario() -> None:
        colab = provider_for(cloud)
        lease = await colab.create(intent)
        with pytest.raises(Rejected, match="not a whole job bundle"):
            await colab.start(lease)

    asyncio.run(scenario())
    assert cloud.requests("Upload") == []


def test_accounts_count_as_free_unless_a_balance_is_told() -> None:
    for tier in ("", "FREE", "PRO", "PRO_PLUS"):
        for balance in (None, 0.0):
            assert not Account(tier, frozenset(), balance).unattended
        assert Account(tier, frozenset(), 0.1).unattended
