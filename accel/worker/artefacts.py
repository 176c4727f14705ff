"""A job's result files. Guarantee: ``read_result`` returns only what the far end wrote, whole and unaltered.

``result.json`` names every artefact with its sha256 and size and is written last, by rename: a folder
without it holds no result. ``result.safetensors`` is the envelope of the answer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.errors import BadOutput, JobFailed
from accel.wire import Envelope, EnvelopeError

RESULT_SCHEMA = 1
MANIFEST = "result.json"
ENVELOPE = "result.safetensors"


@dataclass(frozen=True, slots=True)
class JobResult:
    """output: the answer. env: ``Provenance`` fields of the far end. log_tail: its last words."""

    output: Envelope
    env: Mapping[str, Any]


def write_result(folder: Path, task_id: str, output: Envelope, env: Mapping[str, Any]) -> None:
    """Write envelope and manifest into ``folder``, each by rename, the manifest last."""
    blob = output.to_bytes()
    _replace(folder / ENVELOPE, blob)
    entry = {"sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)}
    _manifest(folder, {"task_id": task_id, "status": "ok", "artefacts": {ENVELOPE: entry},
                       "env": dict(env)})  # fmt: skip


def write_failure(folder: Path, task_id: str, error: str) -> None:
    """Say in ``result.json`` that the job failed, and why, in one line."""
    _manifest(folder, {"task_id": task_id, "status": "failed", "error": error, "artefacts": {}})


def read_result(folder: Path, *, task_id: str, spec: Mapping[str, Any], provider: str) -> JobResult:
    """Verify and read what ``write_result`` left in ``folder``.

    Raises JobFailed when the far end says that it failed, BadOutput when anything is missing, cut off,
    altered, or belongs to another task or Spec.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["schema"] != RESULT_SCHEMA:
            raise BadOutput(f"{MANIFEST} has schema {manifest['schema']}", provider=provider)
        if manifest["task_id"] != task_id:
            raise BadOutput(f"{MANIFEST} belongs to another task", provider=provider)
        if manifest["status"] != "ok":
            raise JobFailed(f"the job failed: {manifest.get('error', 'no reason given')}",
                            provider=provider)  # fmt: skip
        entry = manifest["artefacts"][ENVELOPE]
        blob = (folder / ENVELOPE).read_bytes()
    except FileNotFoundError as missing:
        name = Path(str(missing.filename)).name
        raise BadOutput(f"the job left no {name}", provider=provider) from missing
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise BadOutput(f"{MANIFEST} cannot be read ({type(bad).__name__})", provider=provider) from bad
    if len(blob) != entry["bytes"] or hashlib.sha256(blob).hexdigest() != entry["sha256"]:
        raise BadOutput(
            f"{ENVELOPE} is not what the job wrote: {len(blob)} of {entry['bytes']} bytes, "
            "or another sha256", provider=provider,
        )  # fmt: skip
    try:
        output = Envelope.from_bytes(blob)
    except EnvelopeError as bad:
        raise BadOutput(str(bad), provider=provider) from bad
    if output.task_id != task_id or dict(output.spec) != dict(spec):
        raise BadOutput("the answer belongs to another task or Spec", provider=provider)
    return JobResult(output, manifest.get("env", {}))


def _manifest(folder: Path, content: Mapping[str, Any]) -> None:
    body = json.dumps({"schema": RESULT_SCHEMA, **content}, indent=1, sort_keys=True)
    _replace(folder / MANIFEST, body.encode())


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
