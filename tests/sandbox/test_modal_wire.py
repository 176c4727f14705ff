"""The sandbox Modal's promises: what is not imitated says so, money is exact, nothing outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("modal", reason="Modal's SDK is not installed (pip install 'accel[modal]')")

import grpclib
import grpclib.client
import httpx
from modal_proto import api_grpc, api_pb2

from accel.core.errors import UsageError
from accel.sandbox.modal import ModalSandbox
from accel.sandbox.modal_billing import Container, rate_of

CODE = '''
import os, subprocess, sys, time
def hold(seconds):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    open("pids.part", "w").write(f"{os.getpid()} {child.pid}")
    os.rename("pids.part", "pids")
    time.sleep(seconds)
    return dict(os.environ)
'''
SERVE = (
    "import sys; from pathlib import Path; from accel.sandbox.modal import ModalSandbox; "
    "from accel.sandbox.serving import serve_foreground; "
    "serve_foreground(ModalSandbox(Path(sys.argv[1]), time_scale=10_000))"
)


def ask(at: dict[str, Any], rpc: str, request: Any, **headers: str) -> Any:
    """One call by the generated stubs alone, without Modal's client."""

    async def there() -> Any:
        host, _, port = at["url"].removeprefix("http://").partition(":")
        channel = grpclib.client.Channel(host, int(port))
        try:
            stub = api_grpc.ModalClientStub(channel)
            signed = headers or {
                "x-modal-token-id": at["token_id"], "x-modal-token-secret": at["token_secret"],
            }  # fmt: skip
            return await getattr(stub, rpc)(request, metadata=signed, timeout=10)
        finally:
            channel.close()

    return asyncio.run(there())


def status_of(at: dict[str, Any], rpc: str, request: Any, **headers: str) -> grpclib.Status:
    with pytest.raises(grpclib.GRPCError) as caught:
        ask(at, rpc, request, **headers)
    return caught.value.status


def until(check: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"no {what} within {within_s} s"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def deploy(at: dict[str, Any], name: str = "accel-held") -> str:
    """An app with the function ``hold``, by hand; returns the function's id."""
    app = ask(at, "AppCreate", api_pb2.AppCreateRequest(description=name, app_state=6)).app_id
    put = api_pb2.MountPutFileRequest(data=CODE.encode(), sha256_hex=_sha(CODE))
    ask(at, "MountPutFile", put)
    file = api_pb2.MountFile(filename="/root/holding.py", sha256_hex=_sha(CODE))
    mount = ask(at, "MountGetOrCreate", api_pb2.MountGetOrCreateRequest(files=[file])).mount_id
    made = ask(at, "FunctionPrecreate", api_pb2.FunctionPrecreateRequest(
        app_id=app, function_name="hold", supported_input_formats=[4], supported_output_formats=[4],
    ))  # fmt: skip
    definition = api_pb2.Function(
        module_name="holding", function_name="hold", implementation_name="hold", mount_ids=[mount],
        definition_type=2, function_type=2, timeout_secs=100, supported_output_formats=[4],
        supported_input_formats=[4],
    )  # fmt: skip
    definition.resources.gpu_config.gpu_type = "T4"
    ident = str(made.function_id)
    create = api_pb2.FunctionCreateRequest(app_id=app, function=definition, existing_function_id=ident)
    ask(at, "FunctionCreate", create)
    publish = api_pb2.AppPublishRequest(app_id=app, name=name, app_state=3, function_ids={"hold": ident})
    ask(at, "AppPublish", publish)
    return ident


def spawn(at: dict[str, Any], function: str, seconds: float) -> str:
    import cbor2

    given = api_pb2.FunctionInput(args=cbor2.dumps(((seconds,), {})), data_format=4)
    call = api_pb2.FunctionMapRequest(
        function_id=function, function_call_invocation_type=3,
        pipelined_inputs=[api_pb2.FunctionPutInputsItem(input=given)],
    )  # fmt: skip
    return str(ask(at, "FunctionMap", call).function_call_id)


def _sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def pids(root: Path) -> list[int]:
    file = until(lambda: next(root.glob("containers/*/working/pids"), None), "running container")
    return [int(pid) for pid in file.read_text().split()]


@pytest.fixture(scope="module")
def served() -> Iterator[ModalSandbox]:
    with ModalSandbox(time_scale=10_000) as running:
        yield running


@pytest.fixture
def sandbox(served: ModalSandbox) -> ModalSandbox:
    served.reset()
    return served


# --- the wire


def test_what_is_not_imitated_is_unimplemented(sandbox: ModalSandbox) -> None:
    """Every call of the protocol is answered: by us, or by that word."""
    at = sandbox.describe()
    for rpc, request in (
        ("SandboxCreate", api_pb2.SandboxCreateRequest()), ("DictClear", api_pb2.DictClearRequest()),
        ("ClassCreate", api_pb2.ClassCreateRequest()),
        ("ContainerHeartbeat", api_pb2.ContainerHeartbeatRequest()),
    ):  # fmt: skip
        assert status_of(at, rpc, request) is grpclib.Status.UNIMPLEMENTED, rpc


@pytest.mark.parametrize("headers", [
    {"x": "y"}, {"x-modal-token-id": "ak-1", "x-modal-token-secret": "as-1"},
    {"x-task-id": "ta-1", "x-task-secret": "guess"},
])  # fmt: skip
def test_nobody_else_is_let_in(sandbox: ModalSandbox, headers: dict[str, str]) -> None:
    answer = status_of(sandbox.describe(), "AppList", api_pb2.AppListRequest(), **headers)
    assert answer is grpclib.Status.UNAUTHENTICATED


def test_content_is_what_its_hash_says(sandbox: ModalSandbox) -> None:
    put = api_pb2.MountPutFileRequest(data=b"other", sha256_hex=_sha("this"))
    assert status_of(sandbox.describe(), "MountPutFile", put) is grpclib.Status.INVALID_ARGUMENT


def test_the_tests_door_takes_a_fault_script(sandbox: ModalSandbox) -> None:
    at = sandbox.describe()
    rule = {"on": "AppList", "kind": "http", "status": 503}
    assert httpx.post(f"{at['control_url']}/_sandbox/faults", json=[rule]).status_code == 200
    assert status_of(at, "AppList", api_pb2.AppListRequest()) is grpclib.Status.UNAVAILABLE
    assert [r.status for r in sandbox.requests("AppList")] == [503]


def test_a_container_may_call_what_is_its_own_and_sees_no_key_of_ours(
    sandbox: ModalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-of-the-host")
    monkeypatch.setenv("SOME_API_KEY", "key-of-the-host")
    at = sandbox.describe()
    spawn(at, deploy(at), 30)
    assert sandbox.root is not None
    pid, _ = pids(sandbox.root)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"of-the-host" not in environment and at["token_secret"].encode() not in environment
    (container,) = sandbox.app.containers.live()
    own = {"x-task-id": container.id, "x-task-secret": container.secret}
    assert status_of(at, "AppList", api_pb2.AppListRequest(), **own) is grpclib.Status.UNIMPLEMENTED
    sandbox.reset()
    until(lambda: gone(pid), "end of the container")


# --- money


@pytest.mark.parametrize(("seconds", "nano"), [(0.001, 1000), (1.0, 1_000_000), (0.0, 0)])
def test_a_container_costs_its_milliseconds(seconds: float, nano: int) -> None:
    container = Container("ta", "fu", 3_600_000_000, 100.0, "", 0.0, ended_at=100.0 + seconds)
    assert container.invoice(1e9) == nano
    odd = Container("ta", "fu", 3_600_001, 100.0, "", 0.0, ended_at=100.001)
    assert odd.invoice(0) == 2, "rounded up once"


def test_a_rate_is_of_what_was_asked_for() -> None:
    rates = {"gpu:A100-40GB": 1000, "cpu": 100, "memory": 10}
    asked = api_pb2.Resources(milli_cpu=2000, memory_mb=4096)
    asked.gpu_config.gpu_type, asked.gpu_config.count = "A100", 2
    assert rate_of(asked, rates) == 2000 + 200 + 40
    assert rate_of(api_pb2.Resources(), rates) == 12 + 1, "an eighth of a core and 128 MiB"


def test_the_report_and_the_invoice_are_one_sum(sandbox: ModalSandbox) -> None:
    at = sandbox.describe()
    names = ("accel-a", "accel-b")
    for name in names:
        spawn(at, deploy(at, name), 0.0)
    until(lambda: all(c.ready_at for c in sandbox.app.containers.all.values()), "containers")
    for app in ask(at, "AppList", api_pb2.AppListRequest()).apps:
        ask(at, "AppStop", api_pb2.AppStopRequest(app_id=app.app_id))
    assert not [t for t in sandbox.things() if t["kind"] == "container"]
    time.sleep(2 * sandbox.billing_interval_s)
    request = api_pb2.WorkspaceBillingReportRequest(resolution="h")
    request.end_timestamp.GetCurrentTime()
    request.start_timestamp.FromSeconds(request.end_timestamp.seconds - 1000)

    async def rows() -> list[Any]:
        host, _, port = at["url"].removeprefix("http://").partition(":")
        channel = grpclib.client.Channel(host, int(port))
        signed = {"x-modal-token-id": at["token_id"], "x-modal-token-secret": at["token_secret"]}
        try:
            stub = api_grpc.ModalClientStub(channel)
            return list(await stub.WorkspaceBillingReport(request, metadata=signed))
        finally:
            channel.close()

    from decimal import Decimal

    total = sum(Decimal(r.cost) for r in asyncio.run(rows()))
    assert total * 10**9 == sandbox.invoice_nano() == sum(sandbox.invoice_nano(n) for n in names)
    assert total > 0


# --- lifetimes


def test_nothing_outlives_a_sandbox_that_is_killed_and_its_successor_knows_all(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        at = json.loads(process.stdout.readline())
        function = deploy(at)
        call = spawn(at, function, 100)
        running = pids(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for pid in running:
        until(lambda pid=pid: gone(pid), "end of the container")
    with ModalSandbox(tmp_path, time_scale=10_000) as again:
        assert (again.token_id, again.token_secret) == (at["token_id"], at["token_secret"])
        assert [t["name"] for t in again.things() if t["kind"] == "app"] == ["accel-held"]
        assert again.invoice_nano() > 0
        fetch = api_pb2.FunctionCallFetchRequest(function_id=function)
        fetch.tail.count = 5
        (known,) = ask(again.describe(), "FunctionCallFetch", fetch).function_call_inputs
        assert known.function_call_id == call
        until(lambda: len(again.app.containers.live()) == 1, "second try of the interrupted input")
    assert at["token_secret"] not in (tmp_path / "containers").as_posix()
    assert (tmp_path / "account.json").stat().st_mode & 0o077 == 0


def test_without_modals_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"accel\[modal\]"):
        ModalSandbox()


def test_without_modals_sdk_everything_else_is_imported(tmp_path: Path) -> None:
    """Installing accel alone drags no provider SDK: the adapter then says what is missing."""
    code = (
        "import sys, asyncio\n"
        "for name in ('modal', 'modal_proto', 'grpclib', 'google.protobuf', 'synchronicity'):\n"
        "    sys.modules[name] = None\n"
        "import accel.sandbox.modal, accel.providers.modal as m, accel.providers.modal_client as c\n"
        "from accel.core.offer import Realm\n"
        "from accel.core.runtime import Runtime\n"
        "from accel.core.task import Lane, Need, Stage\n"
        "p = m.ModalProvider(realm=Realm.SANDBOX, endpoint='http://127.0.0.1:9',\n"
        "                    runtime=Runtime.production(), credentials=c.ModalCredentials('a', 'b'))\n"
        "print(asyncio.run(p.probe(Need(Stage.EMBED, Lane.BATCH))).reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert "not installed" in done.stdout and "accel[modal]" in done.stdout
