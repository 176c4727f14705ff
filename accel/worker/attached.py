"""A bundle too large for one script. Guarantee: the far end runs these very bytes, or says what is missing.

Wheel and tensors travel as files of their own, each named by its sha256, so that the same file is sent once:
the tensors bear no task's name, which stands in the script. Whoever sends them puts them where the script
looks (``ROOTS``, at any depth); it checks the hash before it uses one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.errors import UsageError
from accel.wire import Envelope
from accel.worker.bundle import Bundle, TooLarge, coded, render_script

FOLDER = "attached"  # beside the bundle's own files
# Kaggle mounts data sets below /kaggle/input and starts a script in /kaggle/working; how deep is not promised
# (it has changed), so that the file is looked for.
ROOTS = ("/kaggle/input", "../input")
NAME = re.compile(r"accel-[0-9a-f]{32}\.bin")

_FIND = '''\
import base64, glob, hashlib, json, sys, tempfile, zipfile

def _attached(name, digest):
    below = [glob.escape(root) + "/**/" + name for root in {roots!r}]
    found = [path for wanted in below for path in sorted(glob.glob(wanted, recursive=True))]
    for path in found:
        told = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                told.update(chunk)
        if told.hexdigest() == digest:
            return path
    raise SystemExit("accel: the attached file " + name + (" is damaged" if found else " is not here"))

_folder = tempfile.mkdtemp(prefix="accel-wheel-")
zipfile.ZipFile(_attached({wheel!r}, {wheel_digest!r})).extractall(_folder)
sys.path.insert(0, _folder)
for _name in [m for m in sys.modules if m == "accel" or m.startswith("accel.")]:
    del sys.modules[_name]
'''


@dataclass(frozen=True, slots=True)
class Attached:
    """script: what is pushed. files: what it needs there, each named ``NAME`` and never changed."""

    script: str
    internet: bool
    files: tuple[Path, ...]


def render_here(folder: Path) -> str:
    """The bundle's script for this very machine, of any size: what does not fit is read from ``folder``."""
    try:
        return render_script(folder)
    except TooLarge:
        return attach(folder, (str((folder / FOLDER).resolve()),)).script


def attach(folder: Path, roots: tuple[str, ...] = ROOTS) -> Attached:
    """The bundle in ``folder`` as a short script and its files, written below it (again: the same ones).

    roots: where the script looks for them. Raises UsageError for what is no bundle.
    """
    bundle = Bundle.open(folder)
    inputs = Envelope.from_bytes(bundle.inputs)
    tensors = Envelope("", {}, inputs.tensors).to_bytes()
    kept = [_keep(folder / FOLDER, data) for data in (bundle.wheel, tensors)]
    (wheel, wheel_digest), (data, data_digest) = kept
    head = {"task_id": inputs.task_id, "spec": dict(inputs.spec), "meta": dict(inputs.meta)}
    script = (
        '"""accel job: takes its package and its inputs from attached files, and runs one job."""\n'
        + _FIND.format(roots=roots, wheel=wheel.name, wheel_digest=wheel_digest)
        + f'JOB = """\\\n{coded(json.dumps(bundle.job).encode())}"""\n'
        + f'HEAD = """\\\n{coded(json.dumps(head).encode())}"""\n'
        + "from accel.worker.attached import whole\nfrom accel.worker.job import main\n\n"
        + f"_inputs = whole(json.loads(base64.b64decode(HEAD)), _attached({data.name!r}, {data_digest!r}))\n"
        + "raise SystemExit(main(base64.b64decode(JOB), _inputs))\n"
    )
    return Attached(script, bundle.needs_internet, (wheel, data))


def whole(head: dict[str, Any], path: str) -> bytes:
    """At the far end: the inputs as they were bundled, of their head and the attached tensors."""
    tensors = Envelope.from_bytes(Path(path).read_bytes()).tensors
    return Envelope(head["task_id"], head["spec"], tensors, head["meta"]).to_bytes()


def digest_of(file: Path) -> str:
    """sha256 of an attached file, hex. Raises UsageError where its name says another."""
    told = hashlib.sha256()
    with file.open("rb") as data:
        while chunk := data.read(1 << 20):
            told.update(chunk)
    digest = told.hexdigest()
    if file.name != _name(digest):
        raise UsageError(f"{file} is not what it was: submit the job again.")
    return digest


def _keep(folder: Path, data: bytes) -> tuple[Path, str]:
    digest = hashlib.sha256(data).hexdigest()
    file = folder / _name(digest)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(data)
        part.replace(file)
    return file, digest


def _name(digest: str) -> str:
    return f"accel-{digest[:32]}.bin"
