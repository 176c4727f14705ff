"""A job's result becomes rows with the far end's provenance, and its vectors are compared with ours."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel import environment
from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.errors import BadOutput, UsageError
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Stage, Task
from accel.experiments.embed_benchmark import (
    COSINE,
    SECONDS,
    agreement,
    benchmark_texts,
    cosines,
    prepare,
    rows_of,
)
from accel.fleet.jobs import Finished
from accel.ledger import Job, JobStep
from accel.stages.embed import default_spec, load_encoder
from accel.wire import Envelope
from accel.worker.artefacts import JobResult, read_result, write_result
from accel.worker.bundle import Bundle
from accel.worker.job import run

TEXTS = ["How do I parse a date?", "datetime.fromisoformat takes an ISO 8601 string.", ""]
RUNTIME = Runtime.production()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, JobResult]:
    """The job as a far end runs it, and its result as it is read here."""
    folder = tmp_path_factory.mktemp("job")
    task, bundle = prepare(
        TEXTS, default_spec(), batch_sizes=[1, 4], repetitions=2, only=["kaggle"], runtime=RUNTIME
    )
    bundle.write(folder / "bundle")
    again = Bundle.open(folder / "bundle")
    output = run(again.job, Envelope.from_bytes(again.inputs), say=lambda _: None)
    env = dataclasses.asdict(environment.provenance(datetime.now(UTC)))
    env["measured_at"] = env["measured_at"].isoformat()
    write_result(folder, task.id, output, env)
    return task, read_result(folder, task_id=task.id, spec=task.spec.fields(), provider="kaggle")


def finished(task: Task, result: JobResult, realm: Realm = Realm.SANDBOX) -> Finished:
    def attempt(outcome: Outcome, provider: str, cost: int) -> Attempt:
        return Attempt(f"{task.id}-{provider}", task.id, provider, realm, "o", outcome,
                       Timing(1, 2, 3, 4), Cost(NanoUSD(cost), Basis.ESTIMATED))  # fmt: skip

    job = Job(task.id, task, Path("nowhere"), JobStep.DONE, 2, "", "", "")
    return Finished(job, result, (attempt(Outcome.FAILED, "other", 1), attempt(Outcome.OK, "kaggle", 222)))


def test_the_task_says_what_the_job_will_do(ran: tuple[Task, JobResult]) -> None:
    task, _ = ran
    assert task.lane is Lane.BATCH and task.need.stage is Stage.EMBED
    assert task.need.only == {"kaggle"}
    assert task.size.items == len(TEXTS) + (1 + 4) * (2 + 1)
    assert task.size.bytes > sum(map(len, TEXTS))
    assert len(task.inputs) == 1


def test_rows_carry_the_far_ends_samples_provenance_timing_and_cost(ran: tuple[Task, JobResult]) -> None:
    task, result = ran
    rows = rows_of(finished(task, result), Realm.SANDBOX)
    assert [(r.cell["batch"], r.n, r.metric, r.unit) for r in rows] == [
        (1, 2, SECONDS, "s"), (4, 2, SECONDS, "s")
    ]  # fmt: skip
    for row in rows:
        assert row.samples == tuple(result.output.tensors[f"seconds_{row.cell['batch']}"])
        assert row.realm is Realm.SANDBOX and row.warm
        assert row.cell["provider"] == "kaggle"
        assert row.timing == Timing(1, 2, 3, 4) and row.cost.amount == 222
        assert row.env.commit == environment.commit()
        assert row.env.packages["torch"]


def test_the_far_ends_vectors_are_compared_with_ours(ran: tuple[Task, JobResult]) -> None:
    task, result = ran
    reference = load_encoder().embed(TEXTS)
    last = rows_of(finished(task, result), Realm.SANDBOX, reference)[-1]
    assert (last.metric, last.n) == (COSINE, len(TEXTS))
    assert min(last.samples) >= 0.9999
    assert agreement(result.output.tensors["vectors"], reference).holds


def test_a_row_never_changes_its_realm(ran: tuple[Task, JobResult]) -> None:
    with pytest.raises(ValueError, match="ran in the sandbox realm, not in real"):
        rows_of(finished(*ran), Realm.REAL)


def test_a_result_that_cannot_say_how_it_was_made_gives_no_rows(ran: tuple[Task, JobResult]) -> None:
    task, result = ran
    poor = JobResult(result.output, {k: v for k, v in result.env.items() if k != "device"})
    with pytest.raises(BadOutput, match=r"does not say how it was made \(device\)"):
        rows_of(finished(task, poor), Realm.SANDBOX)


def test_a_result_without_timings_gives_no_rows(ran: tuple[Task, JobResult]) -> None:
    task, result = ran
    bare = dataclasses.replace(result.output, tensors={"vectors": result.output.tensors["vectors"]})
    with pytest.raises(BadOutput, match="no timings"):
        rows_of(finished(task, JobResult(bare, result.env)), Realm.SANDBOX)


@pytest.mark.parametrize(
    ("texts", "batches", "repetitions"), [([], [1], 1), (["a"], [], 1), (["a"], [0], 1), (["a"], [1], 0)]
)
def test_a_benchmark_of_nothing_is_refused(texts: list[str], batches: list[int], repetitions: int) -> None:
    with pytest.raises(UsageError):
        prepare(texts, default_spec(), batch_sizes=batches, repetitions=repetitions, runtime=RUNTIME)


def test_the_texts_are_the_same_every_time_and_a_prefix_of_more() -> None:
    more = benchmark_texts(5)
    assert benchmark_texts(3) == more[:3] and all(more)
    with pytest.raises(UsageError, match="at least one text"):
        benchmark_texts(0)


unit = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).standard_normal((5, 16)).astype(np.float32)
)


@given(unit, st.floats(0.5, 2.0))
def test_length_does_not_matter_but_direction_does(vectors: np.ndarray, scale: float) -> None:
    assert agreement(vectors, (vectors * scale).astype(np.float32)).holds
    turned = vectors.copy()
    turned[3] = -turned[3]
    told = agreement(turned, vectors)
    assert not told.holds and told.lowest == pytest.approx(-1)
    assert "DISAGREES" in str(told)


def test_zero_and_nan_agree_with_nothing() -> None:
    reference = np.ones((3, 4), dtype=np.float32)
    broken = reference.copy()
    broken[0] = 0
    broken[1, 2] = np.nan
    assert cosines(broken, reference).tolist() == [-1.0, -1.0, 1.0]
    for other in (np.ones((2, 4)), np.ones(4)):
        with pytest.raises(ValueError, match="cannot be compared"):
            agreement(reference, other.astype(np.float32))
    with pytest.raises(ValueError, match="no vectors"):
        agreement(reference[:0], reference[:0])
