"""The fault script and the books of the sandbox, as properties."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.sandbox.faults import FaultKind, FaultScript
from accel.sandbox.store import WEEK_S, Store


@given(
    after=st.integers(0, 5), times=st.integers(0, 5), calls=st.integers(0, 15),
    kind=st.sampled_from([k for k in FaultKind if k is not FaultKind.HTTP]),
)  # fmt: skip
def test_a_rule_fires_after_so_many_and_so_often(
    after: int, times: int, calls: int, kind: FaultKind
) -> None:
    script = FaultScript([{"on": "SaveKernel", "kind": str(kind), "after": after, "times": times}])
    fired = [script.take("SaveKernel") is not None for _ in range(calls)]
    last = after + times if times else math.inf
    assert fired == [after <= n < last for n in range(calls)]
    assert script.take("ListKernels") is None


def test_the_first_rule_that_matches_wins() -> None:
    script = FaultScript([{"on": "A", "kind": "drop"}, {"on": "*", "kind": "hang", "times": 0}])
    taken = [script.take(name) for name in ("A", "A", "B")]
    assert [str(t.kind) for t in taken if t] == ["drop", "hang", "hang"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"on": "A"}, "needs 'on' and 'kind'"),
        ({"on": "A", "kind": "explode"}, "no fault 'explode'"),
        ({"on": "A", "kind": "drop", "when": 3}, "'when'"),
        ({"on": "A", "kind": "drop", "times": -1}, "not negative"),
        ({"on": "A", "kind": "http", "status": 200}, "from 400 to 599"),
    ],
)
def test_a_malformed_script_is_refused_and_changes_nothing(rule: dict[str, object], words: str) -> None:
    script = FaultScript([{"on": "A", "kind": "drop"}])
    with pytest.raises(ValueError, match=words):
        script.set([{"on": "B", "kind": "hang"}, rule])
    assert script.take("B") is None
    assert script.take("A") is not None


@given(
    charges=st.lists(st.tuples(st.floats(0, 3 * WEEK_S), st.floats(0, 43200)), max_size=12),
    asked_at=st.floats(0, 4 * WEEK_S),
)
def test_a_week_holds_its_own_charges_and_no_others(
    charges: list[tuple[float, float]], asked_at: float
) -> None:
    clock = [1_800_000_000.0]
    with TemporaryDirectory() as folder:
        store = Store(Path(folder), username="", key="", token="", now=lambda: clock[0])
        for at, seconds in sorted(charges):
            clock[0] = store.epoch + at
            store.charge(seconds)
        clock[0] = store.epoch + asked_at
        used, refresh, ever = store.week(WEEK_S)
        store.close()
    week = asked_at // WEEK_S
    assert used == pytest.approx(sum(s for at, s in charges if at // WEEK_S == week))
    assert clock[0] < refresh <= clock[0] + WEEK_S
    assert ever == bool(charges)
