"""The sandbox cloud dies in the middle of a push: the job goes on here, or ends in one error.

Real parts all through: the Kaggle adapter on its SDK, the loopback sandbox, a process of this machine.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from accel.core.errors import EveryAttemptFailed
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.jobs import Finished
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, jobs, leases
from accel.providers.kaggle import KaggleProvider
from accel.providers.kaggle_client import KaggleCredentials
from accel.providers.local import LocalProvider
from accel.sandbox.server import KaggleSandbox
from accel.wire import Envelope
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

SPEC = Spec(Stage.EMBED, model="tiny", dimension=2)
TASK = Task("job", Lane.BATCH, SPEC, Size(1, tokens=10), Need(Stage.EMBED, Lane.BATCH))
SCRIPT = f"""
from pathlib import Path
import numpy as np
from accel.wire import Envelope
from accel.worker.artefacts import write_result
output = Envelope("job", {SPEC.fields()!r}, {{"vectors": np.ones((1, 2), np.float32)}})
write_result(Path.cwd(), "job", output, {{}})
"""


async def run(folder: Path, sandbox: KaggleSandbox, script: str = SCRIPT) -> tuple[Finished, Ledger]:
    runtime = Runtime.production()
    kaggle = KaggleProvider(
        realm=Realm.SANDBOX, runtime=runtime, endpoint=sandbox.url, call_s=5.0,
        credentials=KaggleCredentials(sandbox.username, sandbox.key), render=lambda _: (script, False),
    )  # fmt: skip
    local = LocalProvider(Realm.SANDBOX, Worker(), folder / "local", runtime, lambda _: script)
    ledger = Ledger(folder / "ledger.sqlite3", Realm.SANDBOX, runtime.now)
    engine = GPUAccelerator(
        Board([local, kaggle], runtime), ledger, Budgets(ledger, Limits({}, {})), None, runtime,
        folder / "jobs", Preference(order=("kaggle",)),
        Patience(poll_s=0.05, unreachable_s=0.5, lifetime_s=60.0),
    )  # fmt: skip
    job = await engine.submit(TASK, Bundle({"schema": 1}, b"", Envelope("", {}, {}).to_bytes()))
    return await engine.finish(job.id), ledger


def nothing_is_held(ledger: Ledger) -> None:
    """But the free hours of what nobody could confirm: they are held until it has ended itself."""
    may_run = [r for r in leases.unconfirmed(ledger) if r.state == "abandoned"]
    assert (ledger.held(), ledger.open_leases(), jobs.unfinished(ledger)) == (len(may_run), (), ())


def stop_at_push(sandbox: KaggleSandbox) -> threading.Thread:
    """Stop the sandbox while it works on a push: the connection breaks, and it never answers again."""

    def wait_and_stop() -> None:
        while not sandbox.requests("GetAcceleratorQuotaStatistics"):
            threading.Event().wait(0.01)
        threading.Event().wait(0.3)  # the push is held up by its fault for much longer
        sandbox.__exit__(None, None, None)

    thread = threading.Thread(target=wait_and_stop, daemon=True)
    thread.start()
    return thread


def test_a_cloud_that_dies_in_a_push_is_survived_here(tmp_path: Path) -> None:
    with KaggleSandbox(time_scale=1e6) as sandbox:
        sandbox.set_faults({"on": "SaveKernel", "kind": "delay", "seconds": 30})
        thread = stop_at_push(sandbox)
        found, ledger = asyncio.run(run(tmp_path, sandbox))
        thread.join(20)
    assert [(a.provider, a.error) for a in found.attempts] == [("kaggle", "Unreachable"), ("local", "")]
    assert np.array_equal(found.result.output.tensors["vectors"], np.ones((1, 2)))
    nothing_is_held(ledger)
    # nobody can tell whether the push took effect: the books say so, and hold the worst until it is over
    assert ledger.rows("SELECT state FROM lease WHERE provider = 'kaggle'") == [("abandoned",)]
    account = ledger.account("kaggle quota")
    assert (account.spent, account.held) == (0, 60_000)


def test_when_this_machine_fails_too_there_is_one_error_with_both(tmp_path: Path) -> None:
    with KaggleSandbox(time_scale=1e6) as sandbox, pytest.raises(EveryAttemptFailed) as caught:
        sandbox.set_faults({"on": "SaveKernel", "kind": "refuse_push", "text": "no room today", "times": 0})
        asyncio.run(run(tmp_path, sandbox, "raise SystemExit('the disk is full')"))
    assert [a.provider for a in caught.value.attempts] == ["kaggle", "local"]
    line = str(caught.value)
    assert "no room today" in line
    assert "the disk is full" in line
    assert len(line.splitlines()) == 1
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.SANDBOX)
    nothing_is_held(ledger)
    assert ledger.account("kaggle quota").spent == 0
