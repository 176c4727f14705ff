"""What every provider has to pass. Guarantee: each promise of ``providers.base`` has a test that can fail.

A provider's own test module subclasses ``ProviderContract`` and gives it a ``case`` fixture:

    class TestKaggle(ProviderContract):
        @pytest.fixture
        def case(self): yield ProviderCase(provider=..., intent=..., break_=...)

A case says how to break its provider; a breakage it does not know is skipped, with that reason. The tests
are synchronous and give each scenario one event loop through ``case.run``.
"""

from __future__ import annotations

import itertools
from datetime import UTC
from pathlib import Path

import pytest

from accel.core.errors import BadOutput, ProviderError, Unreachable
from accel.core.lease import Lease, Released, Unconfirmed, Unknown
from accel.core.offer import Offer, Unfit
from accel.core.task import Lane, Need, Stage
from accel.providers.base import JobState, ServesLive
from accel.testing.case import CLASSES, EVERY_CALL, Breakage, ProviderCase, assert_no_secret


class ProviderContract:
    """The promises of ``Provider`` and ``RunsBatch``, one test each."""

    @pytest.fixture
    def case(self) -> ProviderCase:
        raise NotImplementedError("a subclass gives its case")

    # --- probe

    def test_probe_makes_an_offer_that_says_when_and_who(self, case: ProviderCase) -> None:
        offer = case.run(case.provider.probe(case.need))
        assert isinstance(offer, Offer), offer
        assert (offer.provider, offer.realm) == (case.provider.name, case.provider.realm)
        assert offer.as_of.tzinfo is UTC
        assert offer.source
        assert offer.rate.source
        assert case.need.lane in offer.lanes

    @pytest.mark.parametrize("breakage", EVERY_CALL)
    def test_probe_never_raises(self, case: ProviderCase, breakage: Breakage) -> None:
        case.broken(breakage)
        found = case.run(case.provider.probe(case.need))
        assert isinstance(found, Unfit | Offer)
        if isinstance(found, Unfit):
            assert found.reason
            assert_no_secret(case, found.reason)

    def test_probe_rents_nothing(self, case: ProviderCase) -> None:
        async def scenario() -> None:
            for lane in Lane:
                await case.provider.probe(Need(Stage.EMBED, lane))
            assert await case.provider.leases() == ()

        case.run(scenario())

    def test_live_is_served_or_refused_with_the_term(self, case: ProviderCase) -> None:
        found = case.run(case.provider.probe(Need(Stage.EMBED, Lane.LIVE)))
        if isinstance(case.provider, ServesLive):
            assert isinstance(found, Offer), found
        else:
            assert isinstance(found, Unfit)
            assert case.live_clause in found.reason

    # --- create and find

    def test_a_job_runs_to_its_end_and_its_files_come_home(
        self, case: ProviderCase, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            intent = case.intent(0.05)
            lease = await case.batch.create(intent)
            assert (lease.id, lease.name) == (intent.id, intent.name)
            assert (lease.provider, lease.realm) == (case.provider.name, case.provider.realm)
            assert lease.ends_by >= lease.created_at
            assert await case.ended(lease) is JobState.DONE
            fetched = await case.batch.fetch(lease, tmp_path / "home")
            assert "result.json" in fetched.files
            for name, path in fetched.files.items():
                assert path.parent == tmp_path / "home"
                assert path.name == name
                assert path.is_file()

        case.run(scenario())

    def test_find_knows_what_create_made_and_nothing_else(self, case: ProviderCase) -> None:
        async def scenario() -> None:
            intent, other = case.intent(0.05), case.intent(0.05)
            assert await case.batch.find(intent) is None
            lease = await case.batch.create(intent)
            assert await case.batch.find(intent) == lease
            assert await case.batch.find(other) is None

        case.run(scenario())

    def test_after_a_lost_answer_the_thing_is_found(self, case: ProviderCase) -> None:
        async def scenario() -> None:
            intent = case.intent(0.05)
            case.broken(Breakage.LOST_ANSWER)
            with pytest.raises(Unreachable):
                await case.batch.create(intent)
            case.break_(None)
            lease = await case.batch.find(intent)
            assert lease is not None
            assert lease.name == intent.name
            assert await case.ended(lease) is JobState.DONE

        case.run(scenario())

    @pytest.mark.parametrize("breakage", [*EVERY_CALL, Breakage.NO_CAPACITY, Breakage.QUOTA])
    def test_a_failed_create_is_a_typed_error_and_makes_nothing(
        self, case: ProviderCase, breakage: Breakage
    ) -> None:
        async def scenario() -> None:
            intent = case.intent(0.05)
            case.broken(breakage)
            with pytest.raises(CLASSES[breakage]) as caught:
                await case.batch.create(intent)
            assert caught.value.provider == case.provider.name
            if breakage is Breakage.RATE_LIMITED:
                assert caught.value.retry_after_s == 7
            assert_no_secret(case, caught.value)
            case.break_(None)
            assert await case.batch.find(intent) is None
            assert await case.provider.leases() == ()

        case.run(scenario())

    @pytest.mark.parametrize("breakage", EVERY_CALL)
    @pytest.mark.parametrize("method", ["find", "poll", "fetch"])
    def test_no_answer_is_never_taken_for_an_answer(
        self, case: ProviderCase, method: str, breakage: Breakage, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            intent = case.intent(0.05)
            lease = await case.batch.create(intent)
            case.broken(breakage)
            with pytest.raises(CLASSES[breakage]) as caught:
                if method == "find":
                    await case.batch.find(intent)
                elif method == "poll":
                    await case.batch.poll(lease)
                else:
                    await case.batch.fetch(lease, tmp_path)
            assert_no_secret(case, caught.value)

        case.run(scenario())

    def test_an_unknown_job_is_absent(self, case: ProviderCase) -> None:
        async def scenario() -> None:
            made = await case.batch.create(case.intent(0.05))
            stranger = case.intent(0.05).name
            remote = made.remote_id.replace(made.name, stranger)
            lease = Lease("x", made.provider, made.realm, stranger, remote, made.created_at, made.ends_by)
            assert (await case.batch.poll(lease)).state is JobState.ABSENT

        case.run(scenario())

    # --- release

    @pytest.mark.parametrize("method", ["release", "cancel"])
    def test_released_means_that_nothing_runs(self, case: ProviderCase, method: str) -> None:
        async def scenario() -> None:
            lease = await case.batch.create(case.intent(20))
            await case.batch.start(lease)
            answer = await getattr(case.provider, method)(lease)
            state = (await case.batch.poll(lease)).state
            if isinstance(answer, Released):
                assert state.terminal or state is JobState.QUEUED  # queued: made, and never started
                assert await case.provider.leases() == ()
            else:
                assert isinstance(answer, Unconfirmed)
                assert answer.reason
                assert answer.ends_by is not None
                assert not state.terminal
                listed = await case.provider.leases()
                assert not isinstance(listed, Unknown)
                assert lease.name in [known.name for known in listed]

        case.run(scenario())

    def test_what_has_ended_is_released_again_and_again(self, case: ProviderCase) -> None:
        async def scenario() -> None:
            lease = await case.batch.create(case.intent(0.05))
            await case.ended(lease)
            for _ in range(2):
                answer = await case.provider.release(lease)
                assert isinstance(answer, Released), answer
                assert answer.confirmed_by

        case.run(scenario())

    @pytest.mark.parametrize("breakage", EVERY_CALL)
    def test_no_release_without_the_providers_word(
        self, case: ProviderCase, breakage: Breakage
    ) -> None:
        async def scenario() -> None:
            lease = await case.batch.create(case.intent(0.05))
            await case.batch.start(lease)
            case.broken(breakage)
            answer = await case.provider.release(lease)
            assert isinstance(answer, Unconfirmed), answer
            assert answer.ends_by == lease.ends_by
            assert_no_secret(case, answer.reason)

        case.run(scenario())

    # --- leases

    def test_what_runs_is_listed(self, case: ProviderCase) -> None:
        async def scenario() -> None:
            lease = await case.batch.create(case.intent(20))
            await case.batch.start(lease)
            listed = await case.provider.leases()
            assert not isinstance(listed, Unknown)
            assert [known.name for known in listed] == [lease.name]
            await case.provider.release(lease)

        case.run(scenario())

    @pytest.mark.parametrize("breakage", [*EVERY_CALL, Breakage.ODD_LISTING])
    def test_unknown_is_not_none(self, case: ProviderCase, breakage: Breakage) -> None:
        case.broken(breakage)
        listed = case.run(case.provider.leases())
        assert isinstance(listed, Unknown), listed
        assert listed.reason
        assert_no_secret(case, listed.reason)

    # --- fetch

    @pytest.mark.parametrize("breakage", [Breakage.TRUNCATED, Breakage.MISSING])
    def test_an_incomplete_download_is_bad_output(
        self, case: ProviderCase, breakage: Breakage, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            lease = await case.batch.create(case.intent(0.05))
            await case.ended(lease)
            case.broken(breakage)
            with pytest.raises(BadOutput):
                await case.batch.fetch(lease, tmp_path)
            assert _names(tmp_path) == []
            case.break_(None)
            assert (await case.batch.fetch(lease, tmp_path)).files

        case.run(scenario())

    # --- one call, one request; secrets stay home

    def test_a_call_is_at_most_one_request(self, case: ProviderCase) -> None:
        if case.requests is None:
            pytest.skip(f"{case.provider.name} has no wire")
        count = case.requests

        async def scenario() -> None:
            intent = case.intent(0.05)
            await case.provider.probe(case.need)  # whatever is asked only once, has been asked
            seen = [count()]
            await case.provider.probe(case.need)
            seen.append(count())
            lease = await case.batch.create(intent)
            seen.append(count())
            assert await case.batch.find(intent) == lease
            seen.append(count())
            await case.batch.poll(lease)
            seen.append(count())
            assert [after - before for before, after in itertools.pairwise(seen)] == [1, 1, 1, 1]

        case.run(scenario())

    @pytest.mark.parametrize("breakage", [Breakage.SERVER_ERROR, Breakage.RATE_LIMITED])
    def test_a_failed_call_is_not_tried_again(self, case: ProviderCase, breakage: Breakage) -> None:
        if case.requests is None:
            pytest.skip(f"{case.provider.name} has no wire")
        case.broken(breakage)
        before = case.requests()
        with pytest.raises(ProviderError):
            case.run(case.batch.create(case.intent(0.05)))
        assert case.requests() - before == 1

    def test_it_does_not_show_its_secrets(self, case: ProviderCase) -> None:
        assert_no_secret(case, repr(case.provider), str(vars(case.provider)))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
