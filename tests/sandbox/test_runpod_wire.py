"""The sandbox RunPod speaks the documents it cites: shapes, errors, money, and what it does not imitate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import UsageError
from accel.sandbox.runpod import RunPodSandbox
from accel.sandbox.runpod_account import command
from accel.sandbox.runpod_graphql import arguments
from accel.sandbox.wire import Refused

# [Pod], [Endpoint], [Template] and [GpuType]: their "required" in openapi.json, commit a900806
POD = {
    "id", "name", "status", "actions", "image", "args", "disk", "mounts", "ports", "env", "registry", "cloud",
    "dataCenterId", "cudaVersion", "ssh", "template", "cost", "locked", "runtime", "createdAt", "startedAt",
    "globalNetworking",
}  # fmt: skip
ENDPOINT = {
    "id", "name", "workers", "scaling", "dataCenterIds", "networkVolumes", "timeout", "flashboot",
    "createdAt",
}  # fmt: skip
TEMPLATE = {
    "id", "name", "image", "args", "disk", "mounts", "ports", "env", "registry", "serverless", "public",
    "category", "startSsh", "startJupyter", "allowedCudaVersions",
}  # fmt: skip
GPU = {"id", "name", "pool", "manufacturer", "memory", "secure", "community", "price", "maxCount"}
BODY = {
    "name": "p", "image": "i", "gpu": {"id": "NVIDIA L4", "count": 1}, "cloud": "COMMUNITY",
    "ports": ["8000/http"], "env": {"A": "b"},
}  # fmt: skip
QUEUE = {
    "name": "e", "type": "QUEUE", "image": "i", "gpu": {"pools": ["ADA_24"]},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[RunPodSandbox]:
    with RunPodSandbox(time_scale=1000, proxy_s=0.5) as running:
        yield running


@pytest.fixture
def sandbox(served: RunPodSandbox) -> RunPodSandbox:
    served.reset()
    return served


@pytest.fixture
def client(sandbox: RunPodSandbox) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {sandbox.key}"}
    with httpx.Client(base_url=sandbox.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


def until(look: Callable[[], Any], wanted: Any) -> Any:
    for _ in range(600):
        if (found := look()) == wanted:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never {wanted!r}, at last {found!r}")


def test_things_have_the_fields_of_the_document(client: httpx.Client) -> None:
    made = client.post("/v2/pods", json=BODY)
    assert made.status_code == 201
    pod = made.json()
    assert pod.keys() >= POD
    assert (pod["status"], pod["runtime"], pod["env"]) == ("PROVISIONING", None, {"A": "b"})
    assert [p["id"] for p in client.get("/v2/pods").json()["pods"]] == [pod["id"]]
    assert client.get(f"/v2/pods/{pod['id']}").json()["name"] == "p"
    endpoint = client.post("/v2/serverless", json=QUEUE)
    assert endpoint.status_code == 201
    assert endpoint.json().keys() >= ENDPOINT
    assert endpoint.json()["workers"] == {"min": 0, "max": 3, "idleTimeout": 10}  # the document's defaults
    assert client.get("/v2/serverless").json()["endpoints"] == [endpoint.json()]
    template = client.post("/v2/templates", json={"name": "t", "image": "i"})
    assert template.json().keys() >= TEMPLATE
    assert client.get("/v2/templates").json()["templates"] == [template.json()]
    assert client.delete(f"/v2/templates/{template.json()['id']}").status_code == 204
    for row in client.get("/v2/catalog/gpus").json()["gpus"]:
        assert row.keys() == GPU
    stocked = client.get("/v2/catalog/gpus/NVIDIA L4", params={"include": "AVAILABILITY", "product": "POD"})
    assert stocked.json()["availability"] in ("LOW", "MEDIUM", "HIGH")


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/v2/pods", BODY | {"interruptible": True}, 422), ("POST", "/v2/pods", BODY | {"name": ""}, 422),
    ("POST", "/v2/pods", {k: v for k, v in BODY.items() if k != "image"}, 422),
    ("POST", "/v2/pods", BODY | {"gpu": {"id": "NVIDIA B200"}}, 400),
    ("POST", "/v2/pods", BODY | {"gpu": {"id": "none"}}, 400),
    ("POST", "/v2/pods", BODY | {"cloud": "SPOT"}, 400),
    ("POST", "/v2/pods", BODY | {"templateId": "x"}, 404),
    ("POST", "/v2/pods", BODY | {"env": {"A": 1}}, 422), ("POST", "/v2/pods", BODY | {"args": "'"}, 400),
    ("GET", "/v2/pods/nosuch", None, 404), ("DELETE", "/v2/pods/nosuch", None, 404),
    ("POST", "/v2/serverless", QUEUE | {"type": "LOAD_BALANCER"}, 422),
    ("POST", "/v2/serverless", QUEUE | {"gpu": {"pools": ["NONE"]}}, 400),
    ("POST", "/v2/serverless", QUEUE | {"bogus": 1}, 422), ("GET", "/v2/serverless/nosuch", None, 404),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY", None, 400), ("GET", "/v2/clusters", None, 501),
    ("POST", "/ai/v2/nosuch/run", {"input": {}}, 404), ("GET", "/nowhere", None, 404),
    ("POST", "/graphql", {"query": "mutation { createFlashApp { id } }"}, 200),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_the_documents_shape(
    client: httpx.Client, sandbox: RunPodSandbox, method: str, path: str, body: Any, status: int
) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    if path == "/graphql":  # errors come with 200 there
        assert "does not imitate" in answer.json()["errors"][0]["message"]
    else:
        told = answer.json()
        assert told["status"] == status
        assert told["title"]
        assert told["detail"]
        assert answer.headers["content-type"] == "application/problem+json"
    assert sandbox.things() == []


def test_every_door_asks_for_its_key(client: httpx.Client, sandbox: RunPodSandbox) -> None:
    ident = client.post("/v2/pods", json=BODY).json()["id"]
    endpoint = client.post("/v2/serverless", json=QUEUE).json()["id"]
    own = {"Authorization": f"Bearer {sandbox.app.account.keys[ident]}"}
    wrong = {"Authorization": "Bearer somebody's"}
    for path in ("/v2/pods", f"/v2/pods/{ident}", "/v2/billing/pods", f"/ai/v2/{endpoint}/health"):
        assert client.get(path, headers=wrong).status_code == 401
    # workers have keys of their own
    assert client.get(f"/ai/v2/{endpoint}/job-take/w?x=1").status_code == 401
    assert client.get("/v2/pods", headers=own).status_code == 401
    assert client.get(f"/v2/pods/{ident}", headers=own).status_code == 200
    assert client.delete(f"/v2/pods/{ident}", headers=own).status_code == 204
    bare = {"Authorization": sandbox.key}  # the curl examples of the data plane send it so
    assert client.get(f"/ai/v2/{endpoint}/health", headers=bare).status_code == 200


def test_a_pod_is_billed_from_order_to_end_to_the_nano_dollar(
    client: httpx.Client, sandbox: RunPodSandbox
) -> None:
    before = sandbox.invoice_nano()
    idents = [client.post("/v2/pods", json=BODY | {"name": f"p{i}"}).json()["id"] for i in range(3)]
    for ident in idents:
        until(lambda ident=ident: client.get(f"/v2/pods/{ident}").json()["status"], "RUNNING")
    assert client.post(f"/v2/pods/{idents[0]}/action", json={"action": "stop"}).json()["cost"] == 0.0
    assert client.post(f"/v2/pods/{idents[0]}/action", json={"action": "stop"}).status_code == 409
    assert client.post(f"/v2/pods/{idents[0]}/action", json={"action": "start"}).status_code == 200
    for ident in idents:
        assert client.delete(f"/v2/pods/{ident}").status_code == 204
    amounts = []
    for ident in idents:
        told = client.get("/v2/billing/pods", params={"podId": ident}).json()
        assert told["metadata"]["recordCount"] == 1
        amounts.append(round(told["records"][0]["totalAmount"] * 10**9))
    assert min(amounts) > 0
    assert sum(amounts) == sandbox.invoice_nano() - before


def test_the_proxy_reaches_a_port_and_gives_up_in_time(client: httpx.Client) -> None:
    slow = (
        "import http.server, time\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        time.sleep(5 if self.path == '/slow' else 0)\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(self.path.encode())\n"
        "import os\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['ACCEL_PORT'])), H).serve_forever()\n"
    )
    import shlex

    body = BODY | {"args": shlex.join(["python3", "-c", slow]), "env": {"ACCEL_PORT": "8000"}}
    ident = client.post("/v2/pods", json=body).json()["id"]
    proxied = f"/proxy/{ident}-8000"
    assert client.get(f"{proxied}/x").status_code in (404, 502)  # not yet
    until(lambda: client.get(f"{proxied}/x").status_code, 200)
    assert client.get(f"{proxied}/x", params={"a": "b"}, headers={"Authorization": ""}).text == "/x?a=b"
    assert client.get(f"{proxied}/slow").status_code == 524
    assert client.get(f"/proxy/{ident}-9000/x").status_code == 404
    client.delete(f"/v2/pods/{ident}")
    assert client.get(f"{proxied}/x").status_code == 404


def test_an_account_without_an_hours_money_rents_nothing() -> None:
    with RunPodSandbox(time_scale=1000, credit=1) as poor, httpx.Client(
        base_url=poor.url, headers={"Authorization": f"Bearer {poor.key}"}, trust_env=False
    ) as client:
        answer = client.post("/v2/pods", json=BODY | {"gpu": {"id": "NVIDIA H100 80GB HBM3"}})
        assert answer.status_code == 402
        told = client.post("/graphql", json={"query": "query { myself { clientBalance } }"}).json()
        assert told["data"]["myself"]["clientBalance"] == 1.0


def test_a_queue_of_jobs_starts_workers_within_its_bounds(
    client: httpx.Client, sandbox: RunPodSandbox
) -> None:
    """Workers of this image do not work: jobs wait, and workers that end are not started for ever."""
    made = client.post("/v2/serverless", json=QUEUE | {"args": "false", "workers": {"max": 2}}).json()
    jobs = [client.post(f"/ai/v2/{made['id']}/run", json={"input": {"n": n}}).json()["id"] for n in range(5)]
    until(lambda: sandbox.app.queues.endpoints[made["id"]].crashes >= 3, True)
    assert len(sandbox.things()) <= 2
    assert client.get(f"/ai/v2/{made['id']}/status/{jobs[0]}").json()["status"] == "IN_QUEUE"
    assert client.post(f"/ai/v2/{made['id']}/cancel/{jobs[0]}").json()["status"] == "CANCELLED"
    assert client.post(f"/ai/v2/{made['id']}/purge-queue").json()["removed"] == 4
    waited = client.post(f"/ai/v2/{made['id']}/runsync?wait=1000", json={"input": {"n": 1}}).json()
    assert waited["status"] == "IN_QUEUE"
    assert client.delete(f"/v2/serverless/{made['id']}").status_code == 204
    until(sandbox.things, [])
    assert client.get(f"/ai/v2/{made['id']}/status/{jobs[1]}").status_code == 404


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    made = client.post("/v2/serverless", json=QUEUE).json()
    answer = client.post(f"/ai/v2/{made['id']}/run", json={"input": {"x": "y" * (10 << 20)}})
    assert answer.status_code == 413


def test_its_settings_are_checked() -> None:
    with pytest.raises(UsageError):
        RunPodSandbox(time_scale=0)


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(st.lists(WORD, min_size=1))
def test_a_start_command_is_read_as_a_shell_reads_it(words: list[str]) -> None:
    import shlex

    assert shlex.split(command(shlex.join(words))) == ["exec", *words]


def test_a_start_command_may_be_json() -> None:
    assert command('{"cmd": ["a b"], "entrypoint": ["bash", "-c"]}') == "exec bash -c 'a b'"
    assert "sleep" in command("")


@given(st.dictionaries(
    st.from_regex(r"[a-z]\w{0,6}", fullmatch=True),
    st.one_of(st.integers(-9, 9), st.booleans(), st.none(), st.text("abc {}:,[]", max_size=6)), max_size=4,
))  # fmt: skip
def test_graphql_inputs_are_read(wanted: dict[str, Any]) -> None:
    import json

    fields = ", ".join(f"{k}: {json.dumps(v)}" for k, v in wanted.items())
    assert arguments(f"mutation {{ x(input: {{ {fields} }}) {{ id }} }}") == wanted


def test_graphql_that_is_broken_is_refused() -> None:
    for broken in ('x(input: {a: "b)', "x(input: {a b})", "x(input: {a: })"):
        with pytest.raises(Refused):
            arguments(broken)
