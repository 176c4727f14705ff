"""How fast does a Kaggle GPU embed? Times all-MiniLM-L6-v2 by batch size, and leaves a verifiable result.

The same job that `accel push` sends, as a kernel of its own: it embeds docstrings of the Python that runs
it, times growing batches with the model warm, and writes `result.json` (status, provenance, sha256) and
`result.safetensors` (vectors and every timing) into its working directory.

`make kernels OWNER=name` puts the accel package in front of this file, since Kaggle ships exactly one.
The kernel asks for internet for one thing: the image does not hold the model's 90 MB of weights, which
come from the model hub and are checked by sha256 before use.
"""

import json
import os
import uuid

import accel
from accel.core.task import Numerics
from accel.experiments.embed_benchmark import KIND, benchmark_texts
from accel.stages.embed import default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.job import main

# How much to do. Each can be set by an environment variable; a small test does.
TEXTS = int(os.environ.get("ACCEL_BENCH_TEXTS", "1024"))
BATCHES = json.loads(os.environ.get("ACCEL_BENCH_BATCHES", "[1, 8, 64, 256, 1024]"))
REPETITIONS = int(os.environ.get("ACCEL_BENCH_REPETITIONS", "10"))
NUMERICS = Numerics(os.environ.get("ACCEL_BENCH_NUMERICS", "fp32"))

MINUTES = 60

# Say what to compute. `fp16` is twice as fast on a T4, and another class of numbers: compare like with like.
spec = default_spec(NUMERICS)
task_id = f"kernel-{uuid.uuid4().hex[:12]}"
job = {
    "schema": 1,
    "kind": KIND,
    "task_id": task_id,
    "spec": spec.fields(),
    "batch_sizes": BATCHES,
    "repetitions": REPETITIONS,
    "lifetime_s": 20 * MINUTES,  # a hard end: the weekly GPU quota is not spent on a hang
}

# Build the inputs here: nothing travels but code.
texts = benchmark_texts(TEXTS)
inputs = Envelope(task_id, spec.fields(), pack_texts(texts), {})
print(f"accel {accel.__version__}: {len(texts)} texts, batches {BATCHES}")  # noqa: T201 - the kernel's log

# Run it. `main` writes the result, or the reason why there is none, and never raises.
raise SystemExit(main(json.dumps(job).encode(), inputs.to_bytes()))
