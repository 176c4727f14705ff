"""Every error is one line that says what was wrong; the tree is what the cascade relies on."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core import errors
from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.errors import (
    AccelError,
    EveryAttemptFailed,
    ProviderError,
    QuotaExhausted,
    Retry,
    TermsError,
    UsageError,
)
from accel.core.money import Cost, NanoUSD
from accel.core.offer import Realm

TREE = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AccelError)]


@given(st.text(), st.text())
def test_an_error_is_one_line(message: str, hint: str) -> None:
    error = AccelError(message, hint=hint)
    assert len(str(error).splitlines()) <= 1
    assert str(error) == " ".join(str(error).split())


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"AccelError"}
    assert drawn == {c.__name__ for c in TREE}


@pytest.mark.parametrize("kind", TREE)
def test_what_the_person_can_mend_exits_with_two_and_the_rest_with_one(kind: type[AccelError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, UsageError) else 1)


def test_only_trouble_that_may_pass_is_tried_at_the_same_place_again() -> None:
    again = {c.__name__ for c in TREE if issubclass(c, ProviderError) and c.retry is Retry.SAME}
    assert again == {"Unreachable", "RateLimited"}


def test_quota_says_when_it_refreshes_and_terms_quote_the_clause() -> None:
    at = datetime(2026, 11, 28, tzinfo=UTC)
    assert "2026-11-28 00:00 UTC" in str(QuotaExhausted("used up", provider="kaggle", resets_at=at))
    refused = TermsError("no.", clause="no serving", url="https://example.org/terms", read_on="2026-11-23")
    for part in ("no serving", "https://example.org/terms", "2026-11-23"):
        assert part in str(refused)


def test_the_last_error_lists_each_attempt_with_what_it_said() -> None:
    def attempt(provider: str, error: str, detail: str, seconds: float) -> Attempt:
        return Attempt(
            "a", "t", provider, Realm.REAL, "o", Outcome.FAILED, Timing(wait_s=seconds),
            Cost(NanoUSD(223)), error=error, detail=detail,
        )  # fmt: skip

    tried = (
        attempt("kaggle", "Unreachable", "kaggle: no answer.", 1.5),
        attempt("local", "ModelError", "weights are missing", 0.002),
    )
    line = str(EveryAttemptFailed("every offer failed", tried))
    assert line == (
        "every offer failed: kaggle Unreachable after 1500 ms, $0.000000223 estimated (no answer); "
        "local ModelError after 2 ms, $0.000000223 estimated (weights are missing)."
    )
    assert "no offer to try" in str(EveryAttemptFailed("nothing fits", ()))
