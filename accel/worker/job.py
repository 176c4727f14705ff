"""One batch job at the far end. Guarantee: it ends by its lifetime, and leaves a result or a reason.

``main`` is what a pushed script calls. It needs numpy, torch, sentence-transformers and safetensors,
which the images of Kaggle and Colab hold, and nothing else of ours but this package.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from accel.core.task import Spec
from accel.environment import provenance
from accel.wire import Envelope, unpack_texts
from accel.worker.artefacts import write_failure, write_result

EXIT_LIFETIME = 124  # what timeout(1) returns


def main(job: bytes, inputs: bytes, out: Path | None = None) -> int:
    """Run ``job`` (JSON) on ``inputs`` (an envelope) and write the result into ``out`` (default: cwd).

    Returns 0, or 1 after writing the reason into ``result.json``. Never raises.
    """
    folder = out or Path.cwd()
    parsed: dict[str, Any] = json.loads(job)
    task_id = str(parsed.get("task_id", ""))
    _end_by(float(parsed.get("lifetime_s", 3600)), folder, task_id)
    try:
        output = run(parsed, Envelope.from_bytes(inputs), say=_say)
        env = dataclasses.asdict(provenance(datetime.now(UTC)))
        env["measured_at"] = env["measured_at"].isoformat()
        env["commit"] = parsed.get("commit") or env["commit"]  # what was packed, where there is no git
        write_result(folder, task_id, output, env)
    except Exception as failure:
        line = f"{type(failure).__name__}: {failure}".splitlines()[0]
        print(f"accel: the job failed: {line}", file=sys.stderr)  # noqa: T201 - the job's log
        write_failure(folder, task_id, line)
        return 1
    return 0


def run(job: dict[str, Any], inputs: Envelope, say: Callable[[str], None]) -> Envelope:
    """Do ``job["kind"]``; "embed_benchmark" is the one kind so far. Raises ValueError for another."""
    if job.get("kind") != "embed_benchmark":
        raise ValueError(f"this version of accel knows no job kind {job.get('kind')!r}")
    return embed_benchmark(
        Spec.from_fields(job["spec"]), inputs, job["batch_sizes"], int(job["repetitions"]), say
    )


def embed_benchmark(
    spec: Spec, inputs: Envelope, batch_sizes: Sequence[int], repetitions: int,
    say: Callable[[str], None],
) -> Envelope:  # fmt: skip
    """Embed the input texts, then time the first b of them for each batch size b, model warm.

    Returns an envelope with ``vectors`` float32 (n, dim) and one float64 tensor ``seconds_<b>``
    (repetitions,) per batch size; meta: device, cold_s (model load and first call), compute_s.
    """
    from accel.stages.embed import load_encoder
    from accel.worker.devices import SPLIT_FROM, Spread, devices

    texts = unpack_texts(inputs.tensors)
    began = time.perf_counter()
    encoder = Spread.load(spec, devices(), load_encoder)
    encoder.embed(texts[: SPLIT_FROM * len(devices())])  # every device's first call
    cold_s = time.perf_counter() - began
    say(f"model ready on {encoder.device} after {cold_s:.1f} s")
    began = time.perf_counter()
    vectors = encoder.embed(texts)
    tensors: dict[str, np.ndarray] = {"vectors": vectors}
    say(f"{len(texts)} texts embedded in {time.perf_counter() - began:.1f} s")
    for size in batch_sizes:
        batch = [texts[i % len(texts)] for i in range(size)]
        encoder.embed(batch)  # warm: kernels chosen, allocator filled for this shape
        samples = []
        for _ in range(repetitions):
            start = time.perf_counter()
            encoder.embed(batch)
            samples.append(time.perf_counter() - start)
        tensors[f"seconds_{size}"] = np.array(samples)
        say(f"batch {size}: median {statistics.median(samples) * 1e3:.1f} ms, n={repetitions}")
    meta = {
        "device": encoder.device, "cold_s": cold_s, "compute_s": time.perf_counter() - began,
        "tokens": sum(encoder.count_tokens(texts)),
    }  # fmt: skip
    return Envelope(inputs.task_id, spec.fields(), tensors, meta)


def best_device() -> str:
    """ "cuda" when torch sees a GPU here, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _end_by(lifetime_s: float, folder: Path, task_id: str) -> None:
    """A hard end, whatever the main thread is stuck in: nothing of ours outlives its lifetime."""

    def end() -> None:
        write_failure(folder, task_id, f"its lifetime of {lifetime_s:.0f} s was over")
        os._exit(EXIT_LIFETIME)

    timer = threading.Timer(lifetime_s, end)
    timer.daemon = True
    timer.start()


def _say(line: str) -> None:
    print(f"accel: {line}", flush=True)  # noqa: T201 - the job's log is its only voice


def _end_with_parent() -> None:
    """Leave when standard input ends: whoever began this holds its other end, and is gone then."""

    def watch() -> None:
        while os.read(0, 1 << 10):
            pass
        os._exit(EXIT_LIFETIME)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":  # JOB INPUTS OUT, as ``worker.running`` starts it
    _end_with_parent()
    _job, _inputs, _out = map(Path, sys.argv[1:])
    raise SystemExit(main(_job.read_bytes(), _inputs.read_bytes(), _out))
