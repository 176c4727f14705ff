"""The far end ends by its lifetime, and leaves a result or a reason; with the real bundled model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from accel.core.errors import IndexError_, QueryError
from accel.core.task import Spec, Stage
from accel.stages.embed import BLOCK, default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import read_result
from accel.worker.engine import Worker
from accel.worker.job import EXIT_LIFETIME, main, packed_texts, run

TEXTS = ["a first text", "", "the third"]
HANG = """
import sys, time
from pathlib import Path
from accel.worker import job
job.run = lambda *a, **k: time.sleep(600)
raise SystemExit(job.main(sys.argv[1].encode(), Path(sys.argv[2]).read_bytes()))
"""


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


def inputs(spec: Spec) -> Envelope:
    return Envelope("t", spec.fields(), pack_texts(TEXTS))


def test_a_shard_is_embedded_in_blocks_with_the_vectors_of_one_piece(tmp_path: Path, worker: Worker) -> None:
    spec = default_spec()
    texts = [f"note {i} on {'a much longer ' * (i % 5)}subject" for i in range(BLOCK + 5)]
    job = {"task_id": "t", "kind": "embed", "spec": spec.fields(), "lifetime_s": 600}
    sent = Envelope("t", spec.fields(), packed_texts(texts)).to_bytes()
    assert main(json.dumps(job).encode(), sent, tmp_path) == 0
    output = read_result(tmp_path, task_id="t", spec=spec.fields(), provider="local").output
    assert output.meta["devices"] >= 1 and output.meta["compute_s"] > 0
    # block by block, as the live lane embeds a corpus too
    parts = [
        worker.handle(Envelope("t", spec.fields(), pack_texts(part))).tensors["vectors"]
        for part in (texts[:BLOCK], texts[BLOCK:])
    ]
    assert output.tensors["vectors"].tobytes() == np.concatenate(parts).tobytes()


def test_the_embedding_benchmark_embeds_every_text_and_times_each_batch(
    tmp_path: Path, worker: Worker
) -> None:
    spec = default_spec()
    job = {
        "task_id": "t", "kind": "embed_benchmark", "spec": spec.fields(), "batch_sizes": [1, 4],
        "repetitions": 2, "lifetime_s": 600, "commit": "as packed",
    }  # fmt: skip
    assert main(json.dumps(job).encode(), inputs(spec).to_bytes(), tmp_path) == 0
    found = read_result(tmp_path, task_id="t", spec=spec.fields(), provider="local")
    tensors = found.output.tensors
    assert tensors["vectors"].shape == (3, spec.dimension)
    seconds = {name: t for name, t in tensors.items() if name != "vectors"}
    assert {name: t.shape for name, t in seconds.items()} == {"seconds_1": (2,), "seconds_4": (2,)}
    assert all((t > 0).all() for t in seconds.values())
    assert found.env["commit"] == "as packed"
    assert found.output.meta["cold_s"] > 0
    # one implementation: the worker here gives the very same vectors
    here = worker.handle(inputs(spec)).tensors["vectors"]
    assert np.array_equal(here, tensors["vectors"])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"kind": "paint"}, "no job kind 'paint'"),
     ({"spec": {"stage": "embed", "model": "no/such"}}, "no/such"), ({"batch_sizes": None}, "TypeError"),
     ({"kind": None}, "no job kind")],
)  # fmt: skip
def test_whatever_goes_wrong_is_written_down_in_one_line(
    tmp_path: Path, change: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = default_spec()
    job = {"task_id": "t", "kind": "embed_benchmark", "spec": spec.fields(), "batch_sizes": [1],
           "repetitions": 1, "lifetime_s": 600}  # fmt: skip
    assert main(json.dumps(job | change).encode(), inputs(spec).to_bytes(), tmp_path) == 1
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["status"] == "failed"
    assert words in told["error"]
    assert len(told["error"].splitlines()) == 1
    assert words in capsys.readouterr().err


def test_damaged_inputs_are_a_reason_too(tmp_path: Path) -> None:
    assert main(b'{"task_id": "t", "lifetime_s": 0.2}', b"not an envelope", tmp_path) == 1
    time.sleep(0.3)  # its end is called off: else it would take this process along
    assert "EnvelopeError" in json.loads((tmp_path / "result.json").read_text())["error"]


def test_a_job_that_hangs_ends_by_its_lifetime_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "inputs").write_bytes(Envelope("t", {}, {}).to_bytes())
    done = subprocess.run(
        [sys.executable, "-c", HANG, '{"task_id": "t", "lifetime_s": 0.3}', str(tmp_path / "inputs")],
        cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_LIFETIME
    assert "lifetime" in json.loads((tmp_path / "result.json").read_text())["error"]


def test_an_unknown_kind_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="kind"):
        run({}, Envelope("t", {}, {}), print)


def test_the_worker_answers_for_the_requests_task_and_says_what_it_took(worker: Worker) -> None:
    request = inputs(default_spec())
    first, again = worker.handle(request), worker.handle(request)
    assert (first.task_id, dict(first.spec)) == ("t", default_spec().fields())
    assert again.meta["cold_s"] == 0.0  # the model is there now
    assert again.meta["compute_s"] > 0
    assert default_spec().revision in worker.resident()
    assert np.array_equal(first.tensors["vectors"], again.tensors["vectors"])


def test_what_the_worker_cannot_do_is_a_typed_error(worker: Worker) -> None:
    with pytest.raises(QueryError, match="live lane"):
        worker.handle(Envelope("t", Spec(Stage.TRAIN).fields(), {}))
    with pytest.raises(IndexError_, match="not here"):
        search = Envelope("t", Spec(Stage.SEARCH).fields(), pack_texts(["q"]), {"index": "abc", "k": 1})
        worker.handle(search)
