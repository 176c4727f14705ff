"""The sandbox's protocol, asked as raw HTTP: who gets in, what it answers, what it refuses to imitate."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from accel.sandbox.calls import slugify
from accel.sandbox.server import KaggleSandbox

KERNELS = "kernels.KernelsApiService"


@pytest.fixture(scope="module")
def shared() -> Iterator[KaggleSandbox]:
    with KaggleSandbox(time_scale=10_000) as running:
        yield running


@pytest.fixture
def sandbox(shared: KaggleSandbox) -> KaggleSandbox:
    shared.set_faults()
    return shared


def post(sandbox: KaggleSandbox, call: str, body: Any = None, **options: Any) -> httpx.Response:
    options = {"auth": (sandbox.username, sandbox.key), "timeout": 10, **options}
    return httpx.post(f"{sandbox.url}/v1/{call}", json=body or {}, **options)


def save(sandbox: KaggleSandbox, name: str, **changes: Any) -> httpx.Response:
    body = {
        "slug": f"{sandbox.username}/{name}", "newTitle": name, "text": "print('hi')",
        "language": "python", "kernelType": "script", **changes,
    }  # fmt: skip
    return post(sandbox, f"{KERNELS}/SaveKernel", body)


def finished(sandbox: KaggleSandbox, slug: str) -> dict[str, Any]:
    body = {"userName": sandbox.username, "kernelSlug": slug}
    for _ in range(500):
        if post(sandbox, f"{KERNELS}/GetKernelSessionStatus", body).json()["status"] == "COMPLETE":
            listed: dict[str, Any] = post(sandbox, f"{KERNELS}/ListKernelSessionOutput", body).json()
            return listed
        time.sleep(0.02)
    raise AssertionError(f"{slug} did not end")


@pytest.mark.parametrize("auth", [None, ("other", "key"), "user only", "token"])
def test_wrong_credentials_are_401_in_json(sandbox: KaggleSandbox, auth: Any) -> None:
    headers = {}
    if auth == "user only":
        auth = (sandbox.username, "")
    elif auth == "token":
        auth, headers = None, {"Authorization": "Bearer KGAT_wrong"}
    answer = post(sandbox, f"{KERNELS}/ListKernels", auth=auth, headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"code": 401, "message": "Unauthorized"}


def test_a_token_and_both_bases_are_served(sandbox: KaggleSandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    for base in ("/v1", "/api/v1"):
        address = f"{sandbox.url}{base}/{KERNELS}/ListKernels"
        assert httpx.post(address, json={}, headers=headers).status_code == 200


def test_a_client_may_take_it_for_its_proxy(sandbox: KaggleSandbox) -> None:
    where = urlsplit(sandbox.url)
    token = f"Authorization: Bearer {sandbox.token}\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=10) as wire:
        wire.sendall(
            f"POST http://localhost/api/v1/{KERNELS}/ListKernels HTTP/1.1\r\nHost: localhost\r\n{token}"
            "Connection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".encode()
        )
        answer = wire.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert sandbox.requests()[-1].path == f"/api/v1/{KERNELS}/ListKernels"


def test_what_is_not_imitated_says_so(sandbox: KaggleSandbox) -> None:
    answer = post(sandbox, "datasets.DatasetApiService/DownloadDataset")
    assert answer.status_code == 501
    assert "datasets.DatasetApiService/DownloadDataset" in answer.json()["message"]
    assert httpx.get(f"{sandbox.url}/").status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"newTitle": "Another title"}, 200, "does not make the slug"),
        ({"language": "r"}, 200, "Python scripts only"),
        ({"kernelType": "notebook"}, 200, "Python scripts only"),
        ({"sessionTimeoutSeconds": 43201}, 200, "at most 43200"),
        ({"sessionTimeoutSeconds": "soon"}, 400, "Bad Request"),
        ({"slug": "somebody-else/accel-no"}, 403, "denied"),
        ({"text": "#" * (1 << 20) + "#"}, 400, "Bad Request"),
    ],
)
def test_a_push_that_kaggle_would_not_take_makes_nothing(
    sandbox: KaggleSandbox, changes: dict[str, Any], status: int, words: str
) -> None:
    answer = save(sandbox, "accel-no", **changes)
    assert answer.status_code == status
    assert words in json.dumps(answer.json())
    assert "versionNumber" not in answer.json()
    kernels = post(sandbox, f"{KERNELS}/ListKernels", {"search": "accel-no"}).json()["kernels"]
    assert kernels == []


def test_sources_it_does_not_have_are_named(sandbox: KaggleSandbox) -> None:
    answer = save(sandbox, "accel-sources", datasetDataSources=["u/data"]).json()
    assert answer["invalidDatasetSources"] == ["u/data"]
    assert answer["versionNumber"] == 1


def test_versions_are_kept_apart(sandbox: KaggleSandbox) -> None:
    for n in (1, 2):
        save(sandbox, "accel-twice", text=f"open('n', 'w').write('{n}')")
        finished(sandbox, "accel-twice")
    body = {"userName": sandbox.username, "kernelSlug": "accel-twice"}
    for label, wanted in (("v1", "1"), ("v2", "2"), (None, "2")):
        asked = {**body, **({"versionLabel": label} if label else {})}
        files = post(sandbox, f"{KERNELS}/ListKernelSessionOutput", asked).json()["files"]
        assert httpx.get(files[0]["url"]).text == wanted
    bare = post(sandbox, f"{KERNELS}/GetKernelSessionStatus", {**body, "versionLabel": "2"})
    assert bare.status_code == 403


def test_a_saved_kernel_never_runs(sandbox: KaggleSandbox) -> None:
    save(sandbox, "accel-saved", kernelExecutionType="QUICK_SAVE")
    body = {"userName": sandbox.username, "kernelSlug": "accel-saved"}
    time.sleep(0.2)
    assert post(sandbox, f"{KERNELS}/GetKernelSessionStatus", body).json() == {"status": "NEW_SCRIPT"}


def test_downloads_need_their_signature_and_stay_in_their_folder(sandbox: KaggleSandbox) -> None:
    save(sandbox, "accel-files", text="open('a b.txt', 'w').write('content')")
    listed = finished(sandbox, "accel-files")
    url = listed["files"][0]["url"]
    assert httpx.get(url).text == "content"
    signed = urlsplit(url).path.split("/")[2]
    assert httpx.get(url.replace(signed, "0" * 32)).status_code == 403
    for other in ("..%2f..%2fsession.json", "../../session.json", "%2e%2e/script.py"):
        stolen = f"{sandbox.url}/_files/{signed}/accel-files/v1/{other}"
        assert httpx.get(stolen).status_code in (403, 404)


@pytest.mark.parametrize("size", [0, 201, -1])
def test_page_sizes_are_bounded(sandbox: KaggleSandbox, size: int) -> None:
    save(sandbox, "accel-paged")
    finished(sandbox, "accel-paged")
    body = {"userName": sandbox.username, "kernelSlug": "accel-paged", "pageSize": size}
    answer = post(sandbox, f"{KERNELS}/ListKernelSessionOutput", body)
    assert answer.status_code == (400 if size else 200)  # 0 is the default, and travels as nothing


def test_the_wire_log_counts_and_holds_no_secret(sandbox: KaggleSandbox) -> None:
    before = len(sandbox.requests("GetAcceleratorQuotaStatistics"))
    post(sandbox, f"{KERNELS}/GetAcceleratorQuotaStatistics")
    assert len(sandbox.requests("GetAcceleratorQuotaStatistics")) - before == 1
    told = httpx.get(f"{sandbox.url}/_sandbox/wire").text
    assert "GetAcceleratorQuotaStatistics" in told
    for secret in (sandbox.key, sandbox.token):
        assert secret not in told


def test_the_fault_script_can_be_set_while_it_runs(sandbox: KaggleSandbox) -> None:
    rule = {"on": "ListKernels", "kind": "http", "status": 503}
    control = f"{sandbox.url}/_sandbox/faults"
    assert httpx.post(control, json=[rule]).json() == {"rules": 1}
    statuses = [post(sandbox, f"{KERNELS}/ListKernels").status_code for _ in range(2)]
    assert statuses == [503, 200]
    assert sandbox.requests("ListKernels")[-2].fault == "http"


def test_no_web_page_can_set_it(sandbox: KaggleSandbox) -> None:
    control = f"{sandbox.url}/_sandbox/faults"
    assert httpx.post(control, content="[]", headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.post(control, json=[], headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(control, json=[{"on": "x", "kind": "no such"}]).status_code == 400
    assert httpx.post(control, json={"on": 1}).status_code == 400


def test_a_delay_delays_and_then_answers(sandbox: KaggleSandbox) -> None:
    sandbox.set_faults({"on": "ListKernels", "kind": "delay", "seconds": 0.3})
    began = time.monotonic()
    assert post(sandbox, f"{KERNELS}/ListKernels").status_code == 200
    assert time.monotonic() - began >= 0.3


def test_slugs_are_titles_in_lower_case_with_dashes() -> None:
    assert slugify("  My Kernel: part 2! ") == "my-kernel-part-2"
