"""The sandbox Vast.ai: an ask is rented once, the stopped bill their disk, an instance's key opens itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import UsageError
from accel.sandbox.vast import VastSandbox
from accel.sandbox.vast_market import NANO, Market, Query

SLEEP = {"image": "x", "runtype": "args", "onstart": "sleep", "args": ["600"], "disk": 20, "label": "accel-w"}


class Clock:
    """A wall clock that a test moves; the sandbox's own waits go by the real one."""

    def __init__(self) -> None:
        self.at = 1_790_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def served(clock: Clock) -> Iterator[VastSandbox]:
    with VastSandbox(time_scale=1000, now=clock) as running:
        yield running


@pytest.fixture
def cloud(served: VastSandbox) -> VastSandbox:
    served.reset()
    served.set_cold(60.0)
    return served


@pytest.fixture
def http(cloud: VastSandbox) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cloud.key}"}
    with httpx.Client(base_url=cloud.url, headers=headers, trust_env=False, timeout=20) as client:
        yield client


def search(http: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = http.post("/api/v0/bundles/", json={"verified": {"eq": True}, **query})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["offers"]
    return found


def create(http: httpx.Client, ask: int, **more: Any) -> dict[str, Any]:
    answer = http.put(f"/api/v0/asks/{ask}/", json={**SLEEP, **more})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def shown(http: httpx.Client, ident: int) -> dict[str, Any] | None:
    answer: dict[str, Any] | None = http.get(f"/api/v0/instances/{ident}/").json()["instances"]
    return answer


def until(is_so: Callable[[], object]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


# --- the market


def test_filters_order_and_limit_are_kept(http: httpx.Client) -> None:
    rows = search(http, gpu_name={"in": ["L4", "RTX 4090"]}, dph_total={"lte": "0.42"}, limit=3,
                  num_gpus={"eq": "1"}, order=[["dph_total", "asc"]])  # fmt: skip
    assert len(rows) == 3
    assert {row["gpu_name"] for row in rows} <= {"L4", "RTX 4090"}
    prices = [row["dph_total"] for row in rows]
    assert prices == sorted(prices)
    assert max(prices) <= 0.42


def test_the_disk_asked_for_is_in_the_price(http: httpx.Client) -> None:
    small, large = (search(http, allocated_storage=gb, limit=1, gpu_name={"eq": "L4"})[0] for gb in (5, 50))
    assert large["dph_total"] - small["dph_total"] == pytest.approx(45 * 0.2 / 720)
    assert large["dph_base"] == small["dph_base"]


def test_what_nobody_knows_is_refused(http: httpx.Client) -> None:
    for query in ({"gpu_nmae": {"eq": "L4"}}, {"gpu_name": {"like": "L"}}, {"type": "free"},
                  {"order": [["beauty", "asc"]]}, {"num_gpus": {"eq": "one"}}):  # fmt: skip
        assert http.post("/api/v0/bundles/", json=query).status_code == 400


def test_an_ask_makes_one_contract_and_comes_back_as_another(http: httpx.Client) -> None:
    ask = search(http, limit=1)[0]
    made = create(http, ask["id"])
    assert ask["id"] not in [row["id"] for row in search(http)]
    again = http.put(f"/api/v0/asks/{ask['id']}/", json=SLEEP)
    assert (again.status_code, again.json()["error"]) == (410, "no_longer_available")
    http.request("DELETE", f"/api/v0/instances/{made['new_contract']}/", json={})
    back = [row for row in search(http) if row["machine_id"] == ask["machine_id"]]
    assert len(back) == 1
    assert back[0]["id"] != ask["id"]
    never = http.put("/api/v0/asks/99/", json=SLEEP)
    assert (never.status_code, never.json()["error"]) == (404, "no_such_ask")


@given(st.integers(0, 30), st.integers(0, 10_000), st.floats(0, 0.5))
def test_a_bid_has_to_beat_the_rival_and_the_host(number: int, rival: int, drift: float) -> None:
    market = Market(lambda _: (0, False), drift=drift, seed=number)
    slot = market.slots[number]
    slot.rival = rival * NANO // 1000
    assert slot.min_bid >= slot.floor
    assert not rival or slot.min_bid > slot.rival
    before = [s.base for s in market.slots]
    market.search({})
    assert drift or [s.base for s in market.slots] == before
    assert all(s.base > 0 for s in market.slots)
    with pytest.raises(Query):
        market.search({"type": "gift"})


# --- contracts


def test_a_container_really_runs_and_knows_itself(http: httpx.Client, cloud: VastSandbox) -> None:
    code = "import os; print(os.environ['WHO'], os.environ['CONTAINER_ID'], os.environ['PUBLIC_IPADDR'])"
    made = create(http, search(http, limit=1)[0]["id"], onstart="python3", args=["-c", code],
                  env={"WHO": "me and you", "-p 8000:8000": "1"})  # fmt: skip
    ident = made["new_contract"]
    until(lambda: cloud.things()[0]["actual_status"] == "exited")
    assert cloud.log(ident) == f"me and you {ident} 127.0.0.1\n"
    row = shown(http, ident)
    assert row is not None
    assert row["label"] == "accel-w"
    assert row["intended_status"] == "running"


def test_states_on_the_way_and_the_port_that_is_mapped(http: httpx.Client, cloud: VastSandbox) -> None:
    cloud.set_cold(None)
    never = create(http, search(http, limit=1)[0]["id"])["new_contract"]
    row = shown(http, never)
    assert row is not None
    assert row["actual_status"] is None or row["actual_status"] == "loading"
    assert row["ports"] is None
    cloud.set_cold(1.0)
    ident = create(http, search(http, limit=1)[0]["id"], env={"-p 8000:8000": "1"})["new_contract"]
    until(lambda: (shown(http, ident) or {})["actual_status"] == "running")
    row = shown(http, ident)
    assert row is not None
    assert row["public_ipaddr"].strip() == "127.0.0.1"
    assert int(row["ports"]["8000/tcp"][0]["HostPort"])
    cloud.set_status(ident, "offline")
    assert (shown(http, ident) or {})["actual_status"] == "offline"


def test_a_bid_too_low_is_an_error_that_leaves_a_contract(http: httpx.Client, cloud: VastSandbox) -> None:
    ask = search(http, type="bid", limit=1)[0]
    refused = http.put(f"/api/v0/asks/{ask['id']}/", json={**SLEEP, "price": ask["min_bid"] / 2})
    assert refused.status_code == 400
    assert refused.json()["success"] is False
    row = shown(http, refused.json()["new_contract"])
    assert row is not None
    assert row["cur_state"] == row["intended_status"] == row["next_state"] == "stopped"
    assert len(cloud.things()) == 1


def test_an_outbid_one_is_paused_and_runs_again_when_it_wins(http: httpx.Client, cloud: VastSandbox) -> None:
    ask = search(http, type="bid", limit=1)[0]
    ident = create(http, ask["id"], price=ask["min_bid"])["new_contract"]
    until(lambda: (shown(http, ident) or {})["actual_status"] == "running")
    cloud.outbid(ident)
    row = shown(http, ident)
    assert row is not None
    assert {row["cur_state"], row["intended_status"], row["next_state"], row["actual_status"]} == {"stopped"}
    assert http.put(f"/api/v0/instances/{ident}/", json={"state": "running"}).status_code == 400
    assert http.put(f"/api/v0/instances/bid_price/{ident}/", json={"price": None}).json()["success"]
    until(lambda: (shown(http, ident) or {})["actual_status"] == "running")
    on_demand = create(http, search(http, limit=1)[0]["id"])["new_contract"]
    assert http.put(f"/api/v0/instances/bid_price/{on_demand}/", json={"price": 1}).status_code == 400


def test_each_second_bills_once_and_a_stopped_one_its_disk(
    http: httpx.Client, cloud: VastSandbox, clock: Clock
) -> None:
    ask = search(http, type="bid", limit=1, allocated_storage=20)[0]
    ident = create(http, ask["id"], price=ask["min_bid"])["new_contract"]
    disk, bid = round(ask["storage_total_cost"] * NANO), round(ask["min_bid"] * NANO)
    clock.at += 3600
    assert cloud.invoice_nano() == bid + disk
    http.put(f"/api/v0/instances/{ident}/", json={"state": "stopped"})
    clock.at += 7200
    assert cloud.invoice_nano() == bid + 3 * disk
    http.put(f"/api/v0/instances/{ident}/", json={"state": "running"})
    clock.at += 1800
    http.put(f"/api/v0/instances/bid_price/{ident}/", json={"price": 2 * bid / NANO})
    clock.at += 3600
    http.request("DELETE", f"/api/v0/instances/{ident}/", json={})
    clock.at += 3600
    assert cloud.invoice_nano() == bid + 3 * disk + -(-(bid + disk) // 2) + 2 * bid + disk
    (charge,) = http.get("/api/v0/charges/").json()["results"]
    assert charge["source"] == f"instance-{ident}"
    assert round(charge["amount"] * NANO) == cloud.invoice_nano()
    user = http.get("/api/v0/users/current").json()
    assert round(user["credit"] * NANO) == 25 * NANO - cloud.invoice_nano()


def test_an_exited_container_bills_its_disk_until_it_is_destroyed(
    http: httpx.Client, cloud: VastSandbox, clock: Clock
) -> None:
    ident = create(http, search(http, limit=1)[0]["id"])["new_contract"]
    until(lambda: (shown(http, ident) or {})["actual_status"] == "running")
    until(lambda: (cloud.app.machines.root / "machines" / str(ident) / "pid").exists())
    cloud.kill(ident)
    until(lambda: (shown(http, ident) or {})["actual_status"] == "exited")
    before = cloud.invoice_nano()
    clock.at += 3600
    row = shown(http, ident)
    assert row is not None
    assert cloud.invoice_nano() - before == round(row["storage_total_cost"] * NANO)
    assert [thing["id"] for thing in cloud.things()] == [ident]


def test_without_credit_nothing_is_rented_and_what_runs_is_stopped(
    http: httpx.Client, cloud: VastSandbox
) -> None:
    ident = create(http, search(http, limit=1)[0]["id"])["new_contract"]
    cloud.set_credit(0)
    refused = http.put(f"/api/v0/asks/{search(http, limit=1)[0]['id']}/", json=SLEEP)
    assert (refused.status_code, refused.json()["error"]) == (400, "insufficient_credit")
    assert (shown(http, ident) or {})["cur_state"] == "stopped"


# --- the wire


def test_an_instance_key_opens_itself_and_nothing_else(http: httpx.Client, cloud: VastSandbox) -> None:
    mine, other = (create(http, row["id"]) for row in search(http, limit=2))
    key = {"Authorization": f"Bearer {mine['instance_api_key']}"}
    paths = ("/api/v1/instances/", "/api/v0/users/current", f"/api/v0/instances/{other['new_contract']}/")
    for path in paths:
        assert http.get(path, headers=key).status_code == 401
    assert http.post("/api/v0/bundles/", json={}, headers=key).status_code == 401
    own = f"/api/v0/instances/{mine['new_contract']}/"
    assert http.get(own, headers=key).status_code == 200
    assert http.request("DELETE", own, json={}, headers=key).status_code == 200
    assert http.get(own, headers=key).status_code == 401  # with the instance ends its key
    assert [thing["id"] for thing in cloud.things()] == [other["new_contract"]]


def test_pages_filters_and_columns_of_the_listing(http: httpx.Client, cloud: VastSandbox) -> None:
    cloud.set_cold(None)
    made = [create(http, row["id"], label=f"accel-{i % 2}")["new_contract"]
            for i, row in enumerate(search(http, limit=7))]  # fmt: skip
    first = http.get("/api/v1/instances/", params={"limit": 5}).json()
    rest = http.get("/api/v1/instances/", params={"limit": 5, "after_token": first["next_token"]}).json()
    assert [row["id"] for row in first["instances"] + rest["instances"]] == made
    assert (first["total_instances"], rest["next_token"]) == (7, None)
    params = {"select_filters": '{"label": {"in": ["accel-0"]}}', "select_cols": '["id", "label"]',
              "order_by": '[{"col": "id", "dir": "desc"}]'}  # fmt: skip
    chosen = http.get("/api/v1/instances/", params=params).json()
    assert chosen["instances"] == [{"id": i, "label": "accel-0"} for i in reversed(made[::2])]
    assert chosen["label_counts"] == {"accel-0": 4}


def test_bad_requests_are_refused_in_vasts_shape(http: httpx.Client, cloud: VastSandbox) -> None:
    ask = search(http, limit=1)[0]["id"]
    for body in ({**SLEEP, "image": None}, {**SLEEP, "disk": 4}, {**SLEEP, "price": 0.0001},
                 {**SLEEP, "onstart": "x" * 4049}, {**SLEEP, "args": "600"}, [1]):  # fmt: skip
        refused = http.put(f"/api/v0/asks/{ask}/", json=body)
        assert refused.status_code == 400, body
        assert refused.json()["success"] is False
    assert cloud.things() == []
    gone = http.request("DELETE", "/api/v0/instances/5/", json={})
    assert (gone.status_code, gone.json()["error"]) == (404, "no_such_instance")
    assert http.get("/api/v0/instances/5/").json() == {"instances": None}
    assert http.get("/api/v0/machines/").status_code == 501
    assert http.get("/api/v0/users/current", headers={"Authorization": "Bearer x"}).status_code == 401
    cloud.set_faults({"on": "*", "kind": "http", "status": 429, "seconds": 4, "text": "too frequent"})
    slow = http.get("/api/v0/users/current")
    assert (slow.headers["Retry-After"], slow.json()) == ("4", {"detail": "too frequent"})


def test_a_folder_keeps_its_key_and_contracts_and_takes_one_sandbox(tmp_path: Path) -> None:
    with VastSandbox(tmp_path, time_scale=1000) as first:
        key = first.key
        with pytest.raises(UsageError, match="Another sandbox"), VastSandbox(tmp_path):
            pass
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=first.url, headers=headers, trust_env=False) as http:
            ident = create(http, search(http, limit=1)[0]["id"])["new_contract"]
        billed = first.invoice_nano()
    assert (tmp_path / "account.json").stat().st_mode & 0o077 == 0
    with VastSandbox(tmp_path, time_scale=1000) as second:
        assert second.key == key
        (thing,) = second.things()
        assert (thing["id"], thing["actual_status"]) == (ident, "exited")
        assert second.invoice_nano() >= billed
    with pytest.raises(UsageError):
        VastSandbox(time_scale=0)
