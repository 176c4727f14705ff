"""The benchmark's parts add up, and what it calls paid was paid for."""

from __future__ import annotations

import asyncio

import pytest

from accel.experiments.overhead import main, measure


@pytest.mark.parametrize("paid", [False, True])
def test_the_parts_add_up(paid: bool) -> None:
    found = asyncio.run(measure(4, 30, paid=paid))
    assert (found.offers, found.calls, found.paid) == (4, 30, paid)
    assert found.transactions == (2 if paid else 1)  # a reservation is one more
    assert 0 < found.ranking_us < found.decision_us < found.total_us
    assert 0 < found.ledger_us < found.total_us


def test_it_prints_a_line_for_each_and_refuses_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--offers", "3", "--calls", "20"])
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in out[2:]] == ["free", "paid"]
    assert all(len(line) <= 100 for line in out)
    with pytest.raises(SystemExit):
        main(["--calls", "0"])
    with pytest.raises(ValueError, match="at least one"):
        asyncio.run(measure(0, 1, paid=False))
