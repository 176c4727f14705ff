"""One lease, one token: stages, blobs, an index, a job, and what it tells of itself; over real HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from bundled import encoder
from hypothesis import given
from hypothesis import strategies as st
from machines import TOKEN, Inside, inside, machine, wheel

from accel.core.passage import Passage
from accel.core.task import Spec, Stage
from accel.index.store import META, HybridIndex
from accel.stages.embed import default_spec
from accel.stages.rerank import default_rerank_spec
from accel.stages.search import default_search_spec
from accel.wire import Envelope, pack_texts
from accel.worker.engine import Worker
from accel.worker.fused import apart, first, second

TEXTS = [
    "a cat sat on the mat",
    "the stock market fell",
    "dogs bark at cats",
    "bonds and shares",
    "the mat was red",
]
QUESTION = "what did the cat do, and where?"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(tmp_path_factory.mktemp("far")) as made:
        yield made


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    passages = [Passage(f"p{i}", text, "test", "test") for i, text in enumerate(TEXTS)]
    vectors = encoder().embed([p.content for p in passages])
    return HybridIndex.build(tmp_path_factory.mktemp("index") / "it", passages, vectors, encoder().spec)


@pytest.fixture
def client(there: Inside) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=there.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as made:
        yield made


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


# --- stages


def test_what_is_no_request_is_refused_in_words(client: httpx.Client) -> None:
    good = Envelope("t", default_spec().fields(), pack_texts(["x"])).to_bytes()
    assert error(client.post("/embed", content=b"junk")) == (400, "QueryError")
    assert error(client.post("/embed", content=good[:-1])) == (400, "QueryError")
    assert error(client.post("/search", content=good)) == (400, "QueryError")
    odd = Envelope("t", {"stage": "embed", "colour": 1}, {}).to_bytes()
    assert error(client.post("/embed", content=odd)) == (400, "QueryError")
    assert error(client.post("/nothing", content=good)) == (404, "Rejected")
    assert error(client.get("/embed")) == (404, "Rejected")
    missing = Spec(Stage.EMBED, model="no/such-model")
    answer = client.post("/embed", content=Envelope("t", missing.fields(), pack_texts(["x"])).to_bytes())
    assert error(answer) == (500, "ModelError")
    absent = Envelope("t", Spec(Stage.SEARCH).fields(), pack_texts(["q"]), {"index": "0" * 64, "k": 1})
    assert error(client.post("/search", content=absent.to_bytes())) == (409, "IndexError_")


def test_a_text_that_does_not_fit_the_device_is_out_of_memory(
    client: httpx.Client, there: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory: secret details")

    good = Envelope("t", default_spec().fields(), pack_texts(["x", "y"])).to_bytes()
    assert client.post("/embed", content=good).status_code == 200
    (model,) = there.far.worker._encoders()
    monkeypatch.setattr(model._model, "forward", full)
    answer = client.post("/embed", content=good)
    assert error(answer) == (507, "OutOfMemory")
    assert "secret" not in answer.text
    monkeypatch.undo()
    assert client.post("/embed", content=good).status_code == 200
    model.batch_tokens = 1024


# --- by hash


def put(client: httpx.Client, data: bytes, piece: int = 1 << 20, name: str = "") -> dict[str, Any]:
    told: dict[str, Any] = {"have": 0}
    while told["have"] < len(data) or "whole" not in told:
        part = data[told["have"] : told["have"] + piece]
        params = {"offset": told["have"], "size": len(data)}
        answer = client.put(f"/blobs/{name or sha(data)}", params=params, content=part)
        assert answer.status_code == 200, answer.text
        told = answer.json()
    return told


@given(st.binary(max_size=2000), st.integers(1, 700))
def test_a_blob_in_any_pieces_is_whole_at_its_end_only(there: Inside, data: bytes, piece: int) -> None:
    blobs, name = there.far.blobs, sha(data)
    if blobs.path(name):
        assert blobs.put(name, 0, len(data), [b"anything"]) == len(data)
        return
    at = 0
    while at < len(data) or at == 0:
        assert blobs.path(name) is None
        at = blobs.put(name, at, len(data), [data[at : at + piece]])
        if at == len(data):
            break
    assert blobs.path(name) is not None
    assert blobs.path(name).read_bytes() == data  # type: ignore[union-attr]


def test_a_blob_travels_once(client: httpx.Client) -> None:
    data = os.urandom(3_000_000)
    name = sha(data)
    assert client.head(f"/blobs/{name}").status_code == 404
    assert client.get(f"/blobs/{name}").json() == {"have": 0, "whole": False}
    assert put(client, data) == {"have": len(data), "whole": True}
    answer = client.head(f"/blobs/{name}")
    assert (answer.status_code, answer.headers["X-Accel-Have"], answer.content) == (200, str(len(data)), b"")


def test_what_came_before_a_connection_broke_is_kept(client: httpx.Client, there: Inside) -> None:
    data = os.urandom(400_000)
    name = sha(data)
    head = f"PUT /blobs/{name}?offset=0&size={len(data)} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection(there.house.server_address[:2]) as sock:
        sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:250_000])
        while client.get(f"/blobs/{name}").json()["have"] < 65536:
            time.sleep(0.01)
        # while he sends, nobody else may
        busy = client.put(f"/blobs/{name}", params={"offset": 0, "size": len(data)}, content=data)
        assert error(busy) == (409, "Rejected")
    for _ in range(500):
        have = client.get(f"/blobs/{name}").json()["have"]
        params = {"offset": have, "size": len(data)}
        answer = client.put(f"/blobs/{name}", params=params, content=data[have:])
        if answer.status_code == 200:
            break
        time.sleep(0.01)
    assert have == 250_000
    assert answer.json()["whole"] is True


def test_a_body_in_chunks_larger_than_any_piece_in_memory_is_streamed(client: httpx.Client) -> None:
    data = bytes(9_000_000)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]

    answer = client.put(f"/blobs/{sha(data)}", params={"size": len(data)}, content=pieces())
    assert answer.json() == {"have": len(data), "whole": True}


def test_what_is_not_what_its_hash_says_is_gone(client: httpx.Client) -> None:
    name = sha(b"right")
    answer = client.put(f"/blobs/{name}", params={"offset": 0, "size": 5}, content=b"wrong")
    assert error(answer) == (422, "Rejected")
    assert client.get(f"/blobs/{name}").json() == {"have": 0, "whole": False}
    assert (
        client.put(f"/blobs/{name}", params={"offset": 0, "size": 5}, content=b"right").json()["whole"]
        is True
    )


@pytest.mark.parametrize(("params", "status"), [
    ({"offset": 3, "size": 5}, 409), ({"offset": 6, "size": 5}, 413), ({"offset": -1, "size": 5}, 400),
    ({"offset": 0, "size": 10**14}, 413), ({"offset": 0, "size": 4}, 422), ({"offset": "x", "size": 5}, 400),
])  # fmt: skip
def test_pieces_that_do_not_fit_are_refused(
    client: httpx.Client, params: dict[str, Any], status: int
) -> None:
    answer = client.put(f"/blobs/{sha(str(params).encode())}", params=params, content=b"12345")
    assert answer.status_code == status


def test_a_disk_is_never_filled(client: httpx.Client, there: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there.far.blobs, "_spare", 1 << 60)
    answer = client.put(f"/blobs/{sha(b'large')}", params={"offset": 0, "size": 5}, content=b"large")
    assert error(answer) == (507, "Rejected")


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e%2fetc%2fpasswd", "x" * 64, "A" * 64, "0" * 63, "", f"{'0' * 64}/x"]
)
@pytest.mark.parametrize("kind", ["blobs", "indexes"])
def test_a_name_is_a_hash_or_nothing(client: httpx.Client, there: Inside, kind: str, name: str) -> None:
    url = httpx.URL(f"{there.url}/{kind}/{name}")
    assert client.put(url, params={"size": 1}, content=b"x").status_code in (404, 422)
    if kind == "blobs":
        assert client.get(url).status_code == 404


def send_index(client: httpx.Client, index: HybridIndex) -> httpx.Response:
    meta = (index.folder / META).read_bytes()
    for entry in json.loads(meta)["files"].values():
        put(client, (index.folder / entry["name"]).read_bytes())
    return client.put(f"/indexes/{index.id}", content=meta)


def test_an_index_is_attached_when_all_of_it_is_there_and_right(
    client: httpx.Client, index: HybridIndex
) -> None:
    meta = (index.folder / META).read_bytes()
    assert error(client.put(f"/indexes/{index.id}", content=meta)) == (409, "Rejected")
    assert client.get(f"/indexes/{index.id}").json() == {"attached": False}
    assert send_index(client, index).json() == {"attached": True}
    assert client.head(f"/indexes/{index.id}").status_code == 200
    assert index.id in client.get("/health").json()["resident"]
    assert error(client.put(f"/indexes/{'0' * 64}", content=meta)) == (422, "Rejected")
    altered = json.loads(meta) | {"passages": 4}
    assert error(client.put(f"/indexes/{index.id}", content=json.dumps(altered).encode())) == (
        422,
        "IndexError_",
    )
    outside = {"files": {"a": {"name": "../../x-0000000000000000.y", "sha256": "0" * 64}}}
    for bad in (b"", b"{}", b"[]", json.dumps(outside).encode()):
        assert error(client.put(f"/indexes/{index.id}", content=bad)) == (422, "Rejected")


def test_search_and_rerank_in_one_trip_are_those_of_two_trips_and_of_this_machine(
    client: httpx.Client, index: HybridIndex
) -> None:
    send_index(client, index)
    parts = ["what did the cat do", "where was it"]
    search = Envelope(
        "s", default_search_spec().fields(), pack_texts(parts) | {"vectors": encoder().embed(parts)},
        {"index": index.id, "k": 4},
    )  # fmt: skip
    local = Worker()
    local.attach(index)
    found = local.handle(search)
    both = first(search, default_rerank_spec(), QUESTION, depth=3, weight=0.05)
    asked = second(both, found, "r")
    ordered = local.handle(asked)
    answer = Envelope.from_bytes(client.post("/search", content=both.to_bytes()).content)
    one, two = apart(both, answer, "r")
    for mine, far in ((found, one), (ordered, two)):
        assert (far.task_id, dict(far.spec)) == (mine.task_id, dict(mine.spec))
        assert far.tensors.keys() == mine.tensors.keys()
        for name, tensor in mine.tensors.items():
            np.testing.assert_array_equal(far.tensors[name], tensor)
        assert far.meta["compute_s"] >= 0
    # the second request has the digest it would have had, and so its key in the cache
    assert second(both, one, "r").digest() == asked.digest()
    far_two = Envelope.from_bytes(client.post("/rerank", content=asked.to_bytes()).content)
    np.testing.assert_array_equal(far_two.tensors["ids"], two.tensors["ids"])


def test_a_rerank_that_is_not_told_is_refused(client: httpx.Client, index: HybridIndex) -> None:
    send_index(client, index)
    tensors = pack_texts(["q"]) | {"vectors": encoder().embed(["q"])}
    for then in (
        1,
        {},
        {"spec": {"stage": "embed"}, "question": "q", "meta": {}},
        {"spec": {"stage": "rerank"}},
    ):
        asked = Envelope(
            "s", default_search_spec().fields(), tensors, {"index": index.id, "k": 2, "then": then}
        )
        assert error(client.post("/search", content=asked.to_bytes())) == (400, "QueryError")


# --- a job


def job_of(client: httpx.Client, **said: Any) -> dict[str, Any]:
    inputs = Envelope("t", default_spec().fields(), pack_texts(["x"])).to_bytes()
    put(client, inputs)
    job = {"task_id": "t", "kind": "embed_benchmark", "spec": default_spec().fields(), "batch_sizes": [1],
           "repetitions": 1, "lifetime_s": 100, **said}  # fmt: skip
    return {"job": job, "inputs": sha(inputs), "wheel": sha(wheel())}


def ended(client: httpx.Client) -> dict[str, Any]:
    ends = time.monotonic() + 90
    while (told := client.get("/job").json())["code"] is None:
        assert time.monotonic() < ends, told
        time.sleep(0.05)
    return told


def test_a_job_runs_beside_and_leaves_only_what_it_wrote(client: httpx.Client, there: Inside) -> None:
    assert client.get("/job").json() == {"state": "absent", "message": "", "code": None}
    assert client.get("/job/files").json() == {"files": {}}
    assert client.get("/job/files/job.log").status_code == 404
    asked = job_of(client, kind="paint")
    assert client.put("/job", json=asked).status_code == 200
    assert there.far.busy()
    assert error(client.put("/job", json=job_of(client, repetitions=2))) == (409, "Rejected")
    again = client.put("/job", json=asked)  # safe to repeat
    assert again.status_code == 200
    assert ended(client)["state"] == "done"
    files = client.get("/job/files").json()["files"]
    assert set(files) == {"result.json", "job.log"}
    for name, entry in files.items():
        data = client.get(f"/job/files/{name}").content
        assert (len(data), sha(data)) == (entry["bytes"], entry["sha256"])
        assert client.get(f"/job/files/{name}", params={"offset": 2, "length": 3}).content == data[2:5]
    for name in (
        "../job.json",
        "..%2fjob.json",
        "job.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "result.json%00",
        "",
    ):
        assert client.get(httpx.URL(f"{there.url}/job/files/{name}")).status_code == 404
    log = client.get("/job/files/job.log").text
    assert TOKEN not in log
    assert client.delete("/job").json() == {"gone": True}


def test_a_job_that_fails_is_done_with_its_reason(client: httpx.Client) -> None:
    client.put("/job", json=job_of(client, kind="dance"))
    assert ended(client)["state"] == "done"
    assert "no job kind" in client.get("/job/files/result.json").json()["error"]


def test_a_crash_of_the_job_is_its_own(client: httpx.Client, there: Inside) -> None:
    client.put("/job", json=job_of(client, repetitions=1_000_000_000))
    process = there.far.running._process
    assert process is not None
    os.killpg(process.pid, signal.SIGSEGV)
    told = ended(client)
    assert told["state"] == "failed"
    assert "signal 11" in told["message"]
    assert client.get("/health").json()["state"] == "ready"


def test_a_job_can_be_stopped_and_another_begun(client: httpx.Client, there: Inside) -> None:
    client.put("/job", json=job_of(client, repetitions=1_000_000_001))
    assert client.delete("/job").json() == {"gone": True}
    assert client.get("/job").json()["state"] == "cancelled"
    assert not there.far.busy()
    assert client.put("/job", json=job_of(client, kind="another")).status_code == 200
    assert ended(client)["state"] == "done"


def test_a_job_knows_the_machines_end(client: httpx.Client, there: Inside) -> None:
    client.put("/job", json=job_of(client, kind="x", lifetime_s=10**9))
    written = json.loads((there.far.running._out / "job.json").read_text())
    assert written["lifetime_s"] < there.far.machine.ends - time.monotonic()
    ended(client)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"job": 1}', b'{"job": {}, "inputs": "x"}', b"[" * 100_000])
def test_what_is_no_job_is_refused(client: httpx.Client, body: bytes) -> None:
    assert error(client.put("/job", content=body)) == (400, "Rejected")


def test_a_job_needs_its_wheel_and_its_inputs(client: httpx.Client) -> None:
    asked = job_of(client)
    assert error(client.put("/job", json={**asked, "wheel": "0" * 64})) == (409, "Rejected")
    assert error(client.put("/job", json={**asked, "inputs": "0" * 64})) == (409, "Rejected")
    assert client.put("/job", json={**asked, "inputs": "../../etc/passwd"}).status_code == 404


# --- what it tells, and when it goes


def test_metrics_are_prometheus_text(client: httpx.Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client.post("/embed", content=Envelope("t", default_spec().fields(), pack_texts(["x"])).to_bytes())
    found = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    assert found["accel_far_end_requests"].samples[0].value >= 1
    assert found["accel_far_end_ends_in_s"].type == "gauge"
    assert found["accel_far_end_batch_tokens"].samples[0].value == 1024


def test_asking_how_it_is_does_not_keep_it_alive_and_use_does(client: httpx.Client, there: Inside) -> None:
    there.far.machine.used -= 100
    for path in ("/health", "/metrics", "/job"):
        client.get(path)
    assert client.get("/health").json()["idle_s"] > 100
    client.get(f"/blobs/{'0' * 64}")
    assert client.get("/health").json()["idle_s"] < 50


def test_two_at_once_get_their_own(client: httpx.Client) -> None:
    texts = [[f"text {i} of {n}" for i in range(n)] for n in range(1, 9)]
    answers: dict[int, Envelope] = {}

    def ask(n: int) -> None:
        body = Envelope(f"t{n}", default_spec().fields(), pack_texts(texts[n])).to_bytes()
        answers[n] = Envelope.from_bytes(client.post("/embed", content=body).content)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, answer in answers.items():
        assert answer.task_id == f"t{n}"
        np.testing.assert_allclose(answer.tensors["vectors"], encoder().embed(texts[n]), atol=1e-5)


def test_at_its_providers_notice_it_takes_nothing_new_but_gives_back_what_is_done(tmp_path: Path) -> None:
    with (
        machine(tmp_path) as box,
        httpx.Client(base_url=box.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client,
    ):
        _up(client)
        client.put("/job", json=job_of(client, kind="fails at once"))
        ended(client)
        os.kill(box.process.pid, signal.SIGTERM)
        while client.get("/health").json()["state"] != "leaving":
            time.sleep(0.02)
        assert error(client.put("/job", json={})) == (503, "Preempted")
        assert error(client.post("/embed", content=b"")) == (503, "Preempted")
        assert client.get("/job/files/result.json").json()["status"] == "failed"
        assert box.process.poll() is None  # there is still something to fetch


def test_at_its_providers_notice_it_goes_where_nothing_is_to_be_lost(tmp_path: Path) -> None:
    with (
        machine(tmp_path) as box,
        httpx.Client(base_url=box.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client,
    ):
        _up(client)
        os.kill(box.process.pid, signal.SIGTERM)
        assert box.ended() == 0


def test_a_job_does_not_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    with (
        machine(tmp_path) as box,
        httpx.Client(base_url=box.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client,
    ):
        _up(client)
        client.put("/job", json=job_of(client, repetitions=1_000_000_000))
        tasks = Path(f"/proc/{box.process.pid}/task")
        deadline = time.monotonic() + 60
        pids: list[int] = []
        while not pids and time.monotonic() < deadline:
            pids = [int(p) for task in tasks.iterdir() for p in (task / "children").read_text().split()]
        os.kill(box.process.pid, signal.SIGKILL)
        assert pids
        while any(_lives(p) for p in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _up(client: httpx.Client) -> None:
    ends = time.monotonic() + 90
    while time.monotonic() < ends:
        try:
            state = client.get("/health").json()["state"]
        except httpx.TransportError:
            state = ""
        if state == "waiting":
            client.put("/wheel", content=wheel())
        if state == "ready":
            return
        time.sleep(0.05)
    raise AssertionError("it never came up")
