"""The terms table: what it forbids is refused with the clause, and every row says where it stands."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.task import Lane, Need, Stage
from accel.providers.terms import TERMS, Allowed, Use, attended, check

PROVIDERS = ("local", "kaggle", "colab", "runpod", "vast", "modal", "cluster")
# DESIGN's lanes: who may serve live, whatever else they can do
LIVE = {"local", "runpod", "vast", "modal", "cluster"}


def need(lane: Lane = Lane.BATCH, private_data: bool = False) -> Need:
    return Need(Stage.EMBED, lane, private_data=private_data)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_live_serving_is_refused_where_it_is_forbidden(provider: str) -> None:
    refusal = check(provider, need(Lane.LIVE), accepted=[t.key for t in TERMS])
    assert (refusal is None) == (provider in LIVE)
    if refusal is not None:
        assert refusal.clause in str(refusal)
        assert refusal.url.startswith("https://")
        assert date.fromisoformat(refusal.read_on)


def test_kaggle_takes_private_data_only_after_consent() -> None:
    assert check("kaggle", need()) is None
    refusal = check("kaggle", need(private_data=True))
    assert refusal is not None
    assert "two months" in refusal.clause
    assert check("kaggle", need(private_data=True), {"kaggle/private data"}) is None


def test_colab_runs_unattended_only_after_consent() -> None:
    assert check("colab", need()) is not None
    assert check("colab", need(), {"colab/unattended"}) is None
    refusal = check("colab", need())
    assert refusal is not None
    assert "--attended" in str(refusal)
    assert '"colab/unattended"' in str(refusal)


def test_whoever_attends_a_run_needs_no_consent_and_gets_nothing_else() -> None:
    there = {attended("colab")}
    assert check("colab", need(), there) is None
    assert check("colab", need(Lane.LIVE), there) is not None
    assert check("kaggle", need(private_data=True), {attended("kaggle")}) is not None
    assert attended("colab") not in {t.key for t in TERMS}


def test_this_machine_is_never_refused() -> None:
    for lane in Lane:
        for private in (True, False):
            assert check("local", need(lane, private)) is None


@given(
    provider=st.sampled_from(PROVIDERS), lane=st.sampled_from(Lane), private=st.booleans(),
    accepted=st.sets(st.sampled_from([t.key for t in TERMS])),
)  # fmt: skip
def test_consent_only_ever_allows_more_and_never_lifts_a_ban(
    provider: str, lane: Lane, private: bool, accepted: set[str]
) -> None:
    asked = need(lane, private)
    if check(provider, asked) is None:
        assert check(provider, asked, accepted) is None
    banned = {t.use for t in TERMS if t.provider == provider and t.allowed is Allowed.NO}
    if lane is Lane.LIVE and Use.LIVE in banned:
        assert check(provider, asked, accepted) is not None


def test_rows_are_unique_and_say_where_they_were_read() -> None:
    assert len({(t.provider, t.use) for t in TERMS}) == len(TERMS)
    for term in TERMS:
        assert term.clause
        assert term.read_on <= date(2026, 11, 23)
        if term.allowed is not Allowed.YES:
            assert term.url.startswith("https://")
    assert {t.provider for t in TERMS} == set(PROVIDERS)
