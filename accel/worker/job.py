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
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from accel.core.task import Spec
from accel.environment import provenance
from accel.wire import Envelope, pack_texts, unpack_texts
from accel.worker.artefacts import write_failure, write_result

EXIT_LIFETIME = 124  # what timeout(1) returns
PACKED = "text_zlib"


def main(job: bytes, inputs: bytes, out: Path | None = None) -> int:
    """Run ``job`` (JSON) on ``inputs`` (an envelope) and write the result into ``out`` (default: cwd).

    Returns 0, or 1 after writing the reason into ``result.json``. Never raises.
    """
    folder = out or Path.cwd()
    parsed: dict[str, Any] = json.loads(job)
    task_id = str(parsed.get("task_id", ""))
    end = _end_by(float(parsed.get("lifetime_s", 3600)), folder, task_id)
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
    finally:
        end.cancel()  # it must not end whoever called this, once there is a result
    return 0


def run(job: dict[str, Any], inputs: Envelope, say: Callable[[str], None]) -> Envelope:
    """Do ``job["kind"]``: "embed" or "embed_benchmark". Raises ValueError for another."""
    if job.get("kind") not in ("embed", "embed_benchmark"):
        raise ValueError(f"this version of accel knows no job kind {job.get('kind')!r}")
    spec = Spec.from_fields(job["spec"])
    if job["kind"] == "embed":
        return embed(spec, inputs, say)
    return embed_benchmark(spec, inputs, job["batch_sizes"], int(job["repetitions"]), say)


def packed_texts(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts as tensors, deflated: a script that carries them may not be large, and text shrinks threefold."""
    tensors = pack_texts(texts)
    data = zlib.compress(tensors.pop("text_bytes").tobytes(), 9)
    return {PACKED: np.frombuffer(data, np.uint8), **tensors}


def unpacked_texts(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Inverse of ``packed_texts``. Raises EnvelopeError, zlib.error."""
    data = zlib.decompress(tensors[PACKED].tobytes())
    return unpack_texts({**tensors, "text_bytes": np.frombuffer(data, np.uint8)})


def embed(spec: Spec, inputs: Envelope, say: Callable[[str], None]) -> Envelope:
    """Embed ``packed_texts`` in blocks (``stages.embed.embed_blocks``) on every GPU there is.

    Returns an envelope with ``vectors`` float32 (n, dim); meta: device, devices, cold_s (model load),
    compute_s.
    """
    from accel.stages.embed import embed_blocks, load_encoder

    texts = unpacked_texts(inputs.tensors)
    began = time.perf_counter()
    encoders = [load_encoder(spec, device=name) for name in every_device()]
    cold_s = time.perf_counter() - began
    say(f"model ready on {', '.join(e.device for e in encoders)} after {cold_s:.1f} s")
    told = -1

    def progress(done: int, total: int) -> None:
        nonlocal told
        if (tenth := 10 * done // total) > told:
            told = tenth
            say(f"{done} of {total} texts")

    began = time.perf_counter()
    vectors = embed_blocks(encoders, texts, progress)
    meta = {
        "device": encoders[0].device, "devices": len(encoders), "cold_s": cold_s,
        "compute_s": time.perf_counter() - began,
    }  # fmt: skip
    return Envelope(inputs.task_id, spec.fields(), {"vectors": vectors}, meta)


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


def every_device() -> list[str]:
    """Every GPU that torch sees here, or "cpu"."""
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def _end_by(lifetime_s: float, folder: Path, task_id: str) -> threading.Timer:
    """A hard end, whatever the main thread is stuck in: nothing of ours outlives its lifetime."""

    def end() -> None:
        write_failure(folder, task_id, f"its lifetime of {lifetime_s:.0f} s was over")
        os._exit(EXIT_LIFETIME)

    timer = threading.Timer(lifetime_s, end)
    timer.daemon = True
    timer.start()
    return timer


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
