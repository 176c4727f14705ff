"""The benchmark's parts add up, and what it calls paid was paid for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from accel.experiments.overhead import main, measure
from accel.experiments.overhead_pairs import _ratio


@pytest.mark.parametrize("paid", [False, True])
def test_the_parts_add_up(paid: bool) -> None:
    found = asyncio.run(measure(4, 30, paid=paid))
    assert (found.offers, found.calls, found.paid) == (4, 30, paid)
    assert found.transactions == (2 if paid else 1)  # a reservation is one more
    assert 0 < found.ranking_us < found.decision_us < found.total_us
    assert 0 < found.ledger_us < found.total_us
    assert found.decision_loops == found.decision_us / found.loop_us > 0


def test_it_prints_a_line_for_each_and_refuses_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--offers", "3", "--calls", "20"])
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in out[2:]] == ["free", "paid"]
    assert all(len(line) <= 110 for line in out)
    with pytest.raises(SystemExit):
        main(["--calls", "0"])
    with pytest.raises(ValueError, match="at least one"):
        asyncio.run(measure(0, 1, paid=False))


def test_another_checkout_is_measured_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    here = str(Path(__file__).parents[2])
    main(["--offers", "2", "--calls", "5", "--against", here, "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [tuple(line.split()[:2]) for line in lines] == [
        (where, part) for where in ("free", "paid") for part in ("ranking", "decision", "ledger", "total")
    ]
    with pytest.raises(SystemExit):
        main(["--against", str(Path(here, "tests"))])


def test_a_ratio_is_of_pairs_and_not_of_medians() -> None:
    """One hour of the machine was three times slower, for both."""
    found = _ratio("decision", False, [100.0, 300.0, 100.0], [50.0, 150.0, 80.0])
    assert (found.ratio, found.low, found.high) == (0.5, 0.5, 0.8)
