"""The price snapshot is data, and data is tested: every row can be believed as far as it says."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import UsageError
from accel.core.money import NANO, NanoUSD, Rate
from accel.core.task import Numerics
from accel.providers import prices
from accel.providers.cards import card, numerics
from accel.routing.gpus import sheet

KINDS = {
    "runpod": {"community", "secure", "serverless"}, "vast": {"interruptible", "on-demand"},
    "modal": {"function"},
}  # fmt: skip


@pytest.mark.parametrize("row", prices.shipped(), ids=lambda p: f"{p.provider} {p.gpu} {p.kind}")
class TestRow:
    def test_it_is_a_price(self, row: prices.Price) -> None:
        assert 0.05 * NANO < row.rate.nano_per_hour < 20 * NANO

    def test_it_is_dated_and_has_a_source(self, row: prices.Price) -> None:
        assert date(2026, 1, 1) <= row.rate.as_of <= date(2026, 11, 23)  # the day the reference was read
        assert len(row.rate.source) > 5

    def test_its_gpu_is_known(self, row: prices.Price) -> None:
        known = card(row.gpu)
        assert known is not None
        assert known.name == row.gpu
        assert known.vram_bytes
        assert known.capability
        assert sheet(row.gpu) or known.vram_bytes

    def test_it_is_sold_in_a_way_its_provider_has(self, row: prices.Price) -> None:
        assert row.kind in KINDS[row.provider]


def test_no_row_is_there_twice() -> None:
    rows = [(p.provider, p.gpu, p.kind, p.rate.as_of) for p in prices.shipped()]
    assert len(rows) == len(set(rows))


def test_a_form_goes_before_none_and_none_serves_both() -> None:
    assert prices.price("runpod", "NVIDIA H100 80GB HBM3", "secure").rate.nano_per_hour == 3_990_000_000  # type: ignore[union-attr]
    assert prices.price("runpod", "NVIDIA H100 PCIe", "secure").rate.nano_per_hour == 2_890_000_000  # type: ignore[union-attr]
    assert prices.price("modal", "H100!", "function").rate.nano_per_hour == 3_949_200_000  # type: ignore[union-attr]
    assert prices.price("modal", "A100-80GB", "function") == prices.price("modal", "A100 80GB", "function")
    assert prices.price("modal", "RTX 4090", "function") is None


def test_the_newest_price_is_taken() -> None:
    old = prices.Price("modal", "T4", "function", Rate(NanoUSD(1), date(2026, 1, 1), "a"))
    new = dataclasses.replace(old, rate=Rate(NanoUSD(2), date(2026, 2, 1), "b"))
    assert prices.price("modal", "T4", "function", [new, old]) == new


@given(st.integers(0, 5000))
def test_age_is_in_days(days: int) -> None:
    rate = prices.shipped()[0].rate
    assert prices.age_days(rate, rate.as_of + timedelta(days=days)) == days
    assert prices.age_days(rate, rate.as_of - timedelta(days=days)) == 0


@pytest.mark.parametrize(("name", "gib", "expected"), [
    ("NVIDIA GeForce RTX 4090", 24, "RTX 4090"), ("RTX_4090", 0, "RTX 4090"), ("Tesla T4", 0, "T4"),
    ("NVIDIA A100-SXM4-80GB", 80, "A100 80GB SXM"), ("A100_PCIE", 40, "A100 40GB PCIe"),
    ("A100-40GB", 0, "A100 40GB"), ("NVIDIA H100 NVL", 94, "H100 NVL"), ("L40S", 48, "L40S"),
    ("NVIDIA RTX 6000 Ada Generation", 48, "RTX 6000 Ada"), ("NVIDIA RTX A6000", 48, "RTX A6000"),
    ("RTX4090", 24, "RTX 4090"), ("A6000", 48, "RTX A6000"), ("RTX6000Ada", 48, "RTX 6000 Ada"),
    ("RTXPRO6000", 96, "RTX PRO 6000"), ("H100NVL", 94, "H100 NVL"),
])  # fmt: skip
def test_cards_are_known_by_every_providers_name(name: str, gib: float, expected: str) -> None:
    assert card(name, gib).name == expected  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [
    "", "A100", "AMD Instinct MI300X OAM", "NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb",
    "GTX 1080", "NVIDIA GeForce RTX 3080 Ti", "RTX4080SUPER", "RTX 4090 D", "GH200",
])  # fmt: skip
def test_what_is_not_known_is_not_guessed(name: str) -> None:
    assert card(name) is None


@given(st.text(max_size=60), st.floats(0, 500))
def test_no_name_breaks_it(name: str, gib: float) -> None:
    found = card(name, gib)
    assert found is None or found.capability


def test_numerics_follow_the_card() -> None:
    assert numerics(75) == {Numerics.FP32, Numerics.FP16, Numerics.INT8}
    assert Numerics.BF16 in numerics(80)
    assert numerics(60) == {Numerics.FP32}


def item(**differing: Any) -> SimpleNamespace:
    plain = {
        "gpu_name": "RTX4090", "gpu_memory": 24.0, "gpu_count": 1, "price": 0.5, "spot": False,
        "location": "US",
    }  # fmt: skip
    return SimpleNamespace(**plain | differing)


def test_gpuhunt_gives_the_cheapest_of_each_gpu_and_kind() -> None:
    items = [
        item(price=1.2, gpu_count=2), item(price=0.7), item(price=0.9, location="US-KS-2"),
        item(gpu_name="A100", gpu_memory=80, price=2.0),
        item(gpu_name="unheard of"), item(gpu_name="T4", price=0.0), item(gpu_name="T4", gpu_count=0),
    ]  # fmt: skip
    found = prices.hunted("runpod", date(2026, 11, 23), lambda _: items)
    assert not isinstance(found, UsageError)
    assert [(p.gpu, p.kind, p.rate.nano_per_hour) for p in found] == [
        ("RTX 4090", "community", 600_000_000), ("RTX 4090", "secure", 900_000_000),
        ("A100 80GB", "community", 2_000_000_000),
    ]  # fmt: skip
    assert {p.rate.as_of for p in found} == {date(2026, 11, 23)}


def test_gpuhunt_that_fails_is_an_error_to_show_and_no_exception() -> None:
    def broken(_: str) -> list[Any]:
        raise RuntimeError("secret words of a broken parser")

    found = prices.hunted("vast", date(2026, 11, 23), broken)
    assert isinstance(found, UsageError)
    assert "vast" in str(found)
    assert "secret" not in str(found)
    assert isinstance(prices.hunted("nowhere", date(2026, 11, 23)), UsageError)
