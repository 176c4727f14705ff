"""The loopback Colab keeps the rules of the real one: tokens, orders, refusals, and nothing runs on."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from accel.core.errors import UsageError
from accel.sandbox.colab import ColabSandbox

SPEC = {"variant": "VARIANT_GPU", "accelerator": "T4", "shape": "SHAPE_STANDARD"}
HEADER = "X-Colab-Runtime-Proxy-Token"


@pytest.fixture(scope="module")
def served() -> Iterator[ColabSandbox]:
    with ColabSandbox(time_scale=1000, cold_s=0.0, eager=False) as running:
        yield running


@pytest.fixture
def cloud(served: ColabSandbox) -> ColabSandbox:
    served.reset()
    return served


def call(cloud: ColabSandbox, method: str, path: str, key: str | None = None, **how: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {cloud.key if key is None else key}"} | how.pop("headers", {})
    return httpx.request(method, cloud.url + path, headers=headers, timeout=60, trust_env=False, **how)


def order(cloud: ColabSandbox, ident: str = "one", request_id: str = "", **spec: str) -> dict[str, Any]:
    params = {"runtimeId": ident} | ({"requestId": request_id} if request_id else {})
    answer = call(cloud, "POST", "/v1beta/runtimes", params=params, json={"runtimeSpec": SPEC | spec})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def way(cloud: ColabSandbox, ident: str = "one") -> dict[str, str]:
    found: dict[str, str] = call(cloud, "GET", f"/v1beta/runtimes/{ident}").json()["connectionInfo"]
    return found


def test_an_order_is_an_operation_and_not_shown_until_it_is_done(cloud: ColabSandbox) -> None:
    cloud.set_cold(3000.0)  # 3 s
    told = order(cloud)
    assert set(told) == {"name"}
    assert call(cloud, "GET", "/v1beta/runtimes/one").status_code == 404
    assert call(cloud, "GET", "/v1beta/runtimes").json() == {}
    assert call(cloud, "DELETE", "/v1beta/runtimes/one?allowMissing=true").json() == {}
    assert call(cloud, "DELETE", "/v1beta/runtimes/one").status_code == 404
    assert cloud.things() == ["one"]  # that took nothing away
    while not (now := call(cloud, "GET", f"/v1/{told['name']}").json()).get("done"):
        time.sleep(0.02)
    assert now["response"]["name"] == "runtimes/one"
    assert [r["name"] for r in call(cloud, "GET", "/v1beta/runtimes").json()["runtimes"]] == ["runtimes/one"]
    assert call(cloud, "DELETE", "/v1beta/runtimes/one").json() == {}
    assert cloud.things() == []


def test_a_request_id_makes_an_order_once_and_must_be_a_uuid4(cloud: ColabSandbox) -> None:
    ident = str(uuid.uuid4())
    assert order(cloud, request_id=ident)["name"] == order(cloud, request_id=ident)["name"]
    assert order(cloud)["error"]["code"] == 6
    refused = call(
        cloud, "POST", f"/v1beta/runtimes?requestId={uuid.uuid5(uuid.NAMESPACE_DNS, 'a')}",
        json={"runtimeSpec": SPEC},
    )  # fmt: skip
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    for odd in ("Upper", "1st", "a-", "x" * 64):
        path = f"/v1beta/runtimes?runtimeId={odd}"
        assert call(cloud, "POST", path, json={"runtimeSpec": SPEC}).status_code == 400


def test_refusals_come_with_a_reason(cloud: ColabSandbox) -> None:
    def why(told: dict[str, Any]) -> tuple[int, str]:
        return told["error"]["code"], told["error"]["details"][0]["reason"]

    assert why(order(cloud, accelerator="A100")) == (9, "NOT_ELIGIBLE")
    order(cloud)
    assert why(order(cloud, "two")) == (9, "TOO_MANY_RUNTIMES")
    cloud.set_account("PRO", 5.0)
    assert "error" not in order(cloud, "two", accelerator="A100")
    eligible = {
        s["key"]["accelerator"] for s in call(cloud, "GET", "/v1beta/runtimespecs").json()["runtimeSpecs"]
        if s["eligible"]
    }  # fmt: skip
    assert eligible == {"NONE", "T4", "L4", "A100"}
    told = call(cloud, "GET", "/v1beta/subscription").json()
    assert told == {"name": "subscription", "tier": "SUBSCRIPTION_TIER_PRO"}


def test_nobody_comes_in_without_a_token(cloud: ColabSandbox) -> None:
    order(cloud)
    for path in ("/v1beta/runtimes", "/v1beta/subscription", "/tun/m/assignments", "/v1/operations/x"):
        answer = call(cloud, "GET", path, key="wrong")
        assert (answer.status_code, answer.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert call(cloud, "GET", "/v1beta/elsewhere").status_code == 501
    there = way(cloud)
    for headers in ({}, {HEADER: "wrong"}, {"Authorization": f"Bearer {cloud.key}"}):
        answer = httpx.get(f"{there['url']}/api/status", headers=headers, trust_env=False)
        assert answer.status_code == 401


def test_fetched_tokens_end_and_a_withdrawn_sign_in_is_over(cloud: ColabSandbox) -> None:
    form = {k: v for k, v in cloud.authorised_user().items() if k != "type"}
    form["grant_type"] = "refresh_token"
    told = httpx.post(f"{cloud.url}/token", data=form, trust_env=False).json()
    assert call(cloud, "GET", "/v1beta/runtimes", key=told["access_token"]).status_code == 200
    cloud.app.account.tokens[told["access_token"]] = 0.0
    assert call(cloud, "GET", "/v1beta/runtimes", key=told["access_token"]).status_code == 401
    wrong = httpx.post(f"{cloud.url}/token", data=form | {"refresh_token": "1//no"}, trust_env=False)
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_grant")
    cloud.revoke()
    assert call(cloud, "GET", "/v1beta/runtimes").status_code == 401


def test_the_command_lines_wire_shows_the_same_runtimes(cloud: ColabSandbox) -> None:
    asked = "/tun/m/assign?nbh=ab_cd........&variant=GPU&accelerator=T4"

    def told(answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        assert answer.text.startswith(")]}'\n")
        return json.loads(answer.text[5:])

    ticket = told(call(cloud, "GET", asked))["token"]
    assert call(cloud, "POST", asked).status_code == 403
    made = told(call(cloud, "POST", asked, headers={"X-Goog-Colab-Token": ticket}))
    assert call(cloud, "POST", asked, headers={"X-Goog-Colab-Token": ticket}).status_code == 403  # used up
    assert told(call(cloud, "GET", asked))["endpoint"] == made["endpoint"]
    assert len(told(call(cloud, "GET", "/tun/m/assignments"))["assignments"]) == 1
    assert len(call(cloud, "GET", "/v1beta/runtimes").json()["runtimes"]) == 1
    assert told(call(cloud, "GET", "/tun/m/ccu-info"))["assignmentsCount"] == 1
    other = asked.replace("ab_cd", "ef_gh")
    ticket = told(call(cloud, "GET", other))["token"]
    assert call(cloud, "POST", other, headers={"X-Goog-Colab-Token": ticket}).status_code == 412
    assert call(cloud, "GET", other.replace("T4", "H100")).status_code == 200
    ticket = told(call(cloud, "GET", f"/tun/m/unassign/{made['endpoint']}"))["token"]
    answer = call(
        cloud, "POST", f"/tun/m/unassign/{made['endpoint']}", headers={"X-Goog-Colab-Token": ticket}
    )
    assert told(answer) == {}
    assert cloud.things() == []


def test_a_runtime_is_a_real_jupyter_server_and_takes_all_of_its_processes_along(
    cloud: ColabSandbox,
) -> None:
    order(cloud)
    there = way(cloud)
    headers = {HEADER: there["token"]}
    with httpx.Client(base_url=there["url"], headers=headers, timeout=100, trust_env=False) as client:
        assert client.get("/api").json()["version"].startswith("2.")
        body = {"type": "file", "format": "text", "content": "é"}
        assert client.put("/api/contents/content/a.txt", json=body).status_code == 201
        assert (cloud.content("one") / "a.txt").read_text() == "é"
        assert client.get("/api/contents/content/nothing").status_code == 404
        kernel = client.post("/api/kernels", json={"name": "python3", "path": "content"}).json()["id"]
        assert [k["id"] for k in client.get("/api/kernels").json()] == [kernel]
        assert len(_processes(cloud)) >= 2
        cloud.expire("one")
        assert client.get("/api").status_code == 401
        assert client.get("/api", headers={HEADER: way(cloud)["token"]}).status_code == 200
        cloud.reclaim("one")
        assert client.get("/api").status_code == 404
    assert _processes(cloud) == []
    assert "JUPYTER_TOKEN" not in os.environ


def _processes(cloud: ColabSandbox) -> list[str]:
    """Everything that has the runtime's folder in its environment."""
    home, found = f"HOME={cloud.root}/runtimes/one/home".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if home in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found


def test_a_machine_may_end_itself_and_nobody_else(cloud: ColabSandbox) -> None:
    order(cloud)
    vm = cloud.app.runtimes.get("one")
    assert vm is not None
    assert httpx.post(f"{cloud.url}/_vm/{'0' * 32}/unassign", trust_env=False).status_code == 404
    assert httpx.post(f"{cloud.url}/_vm/{vm.secret}/unassign", trust_env=False).status_code == 200
    for _ in range(200):
        if not cloud.things():
            break
        time.sleep(0.02)
    assert cloud.things() == []


def test_its_sign_in_is_kept_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with ColabSandbox(tmp_path) as first:
        key, user = first.key, first.authorised_user()
    with ColabSandbox(tmp_path) as second:
        assert (second.key, second.authorised_user()) == (key, user)
    assert (tmp_path / "account.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("odd", [{"time_scale": 0}, {"tier": "GOLD"}])
def test_what_cannot_be_is_one_line(odd: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ColabSandbox(**odd)
