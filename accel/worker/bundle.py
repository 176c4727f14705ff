"""The bundle: what a far end runs. Guarantee: the far end runs these very files, checked by sha256.

A bundle is a folder of three files: ``job.json`` (what to do), ``inputs.safetensors`` (an envelope) and
``accel.whl`` (this package, packed from its installed files: no build tools, no network). Any process
can send it, so that a job survives the process that made it. ``render_script`` turns it into one
self-contained Python script, because Kaggle ships exactly one file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accel
from accel.core.errors import UsageError
from accel.wire import Envelope

JOB_SCHEMA = 1
# A push above about 1 MiB of source fails with an opaque 400 (seen live by omnirun, its
# backends/kaggle.py); larger inputs travel as a dataset.
MAX_SCRIPT_BYTES = 1_000_000
# What no far end runs: the doors, and what plays the provider here.
NOT_SHIPPED = frozenset({"cli", "dashboard", "sandbox", "simulation", "testing"})
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's zero: equal files give an equal wheel


class TooLarge(UsageError):
    """The bundle does not fit into one script; ``worker.attached`` sends it in pieces."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """job: parsed ``job.json``. wheel, inputs: file contents. digest: over all three, hex."""

    job: dict[str, Any]
    wheel: bytes
    inputs: bytes

    @property
    def digest(self) -> str:
        h = hashlib.sha256()
        for part in (json.dumps(self.job, sort_keys=True).encode(), self.wheel, self.inputs):
            h.update(len(part).to_bytes(8, "big") + part)
        return h.hexdigest()

    @property
    def needs_internet(self) -> bool:
        """Whether the far end must fetch model weights."""
        return bool(self.job.get("needs_internet"))

    @classmethod
    def make(cls, job: dict[str, Any], inputs: Envelope) -> Bundle:
        """Pack this package beside ``job`` and ``inputs``."""
        return cls({"schema": JOB_SCHEMA, **job}, pack_wheel(), inputs.to_bytes())

    def write(self, folder: Path) -> None:
        """Write the three files into ``folder`` (created)."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accel.whl").write_bytes(self.wheel)
        (folder / "inputs.safetensors").write_bytes(self.inputs)
        (folder / "job.json").write_text(json.dumps(self.job, indent=1, sort_keys=True))

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read a bundle back. Raises UsageError when a file is missing or of another schema."""
        try:
            job = json.loads((folder / "job.json").read_text())
            bundle = cls(
                job, (folder / "accel.whl").read_bytes(), (folder / "inputs.safetensors").read_bytes()
            )
        except (OSError, ValueError) as bad:
            raise UsageError(f"{folder} is not a whole job bundle ({type(bad).__name__}).") from bad
        if job.get("schema") != JOB_SCHEMA:
            raise UsageError(f"{folder} was made by another version of accel; submit the job again.")
        return bundle


def pack_wheel() -> bytes:
    """A pure-Python wheel of this package as it is installed here, byte for byte reproducible.

    Without ``NOT_SHIPPED``: every push carries the wheel, and a script may not be larger than 1 MB.
    """
    root = Path(accel.__file__).parent
    info = f"accel-{accel.__version__}.dist-info"
    files = {
        f"accel/{p.relative_to(root).as_posix()}": p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and "__pycache__" not in p.parts
        and p.relative_to(root).parts[0] not in NOT_SHIPPED
    }
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: accel\nVersion: {accel.__version__}\n".encode()
    )
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: accel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{name},sha256={_b64(hashlib.sha256(data).digest())},{len(data)}"
              for name, data in files.items()]  # fmt: skip
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, data in files.items():
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _b64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def prelude(wheel: bytes) -> str:
    """Python source that puts ``wheel`` on ``sys.path``, ahead of any installed ``accel``.

    A pure wheel is a zip of its packages: unpacking it is all that installing means, and needs no pip.
    """
    return (
        textwrap.dedent(
            f'''\
            import base64, hashlib, io, sys, tempfile, zipfile

            def _unpack_accel():
                blob = base64.b64decode(WHEEL)
                if hashlib.sha256(blob).hexdigest() != "{hashlib.sha256(wheel).hexdigest()}":
                    raise SystemExit("the inlined accel wheel is damaged: push it again")
                folder = tempfile.mkdtemp(prefix="accel-wheel-")
                zipfile.ZipFile(io.BytesIO(blob)).extractall(folder)
                sys.path.insert(0, folder)
                for name in [m for m in sys.modules if m == "accel" or m.startswith("accel.")]:
                    del sys.modules[name]
            '''
        )
        + f'WHEEL = """\\\n{coded(wheel)}"""\n_unpack_accel()\n'
    )


def render_script(folder: Path) -> str:
    """One self-contained Python script of the bundle in ``folder``.

    It writes ``result.json`` and ``result.safetensors`` into its working directory and exits 0, or
    writes ``result.json`` with the error and exits 1. Raises TooLarge above ``MAX_SCRIPT_BYTES``.
    """
    bundle = Bundle.open(folder)
    script = (
        f'"""accel {accel.__version__} job {bundle.job.get("task_id", "")}: '
        'unpacks its own package and runs one job."""\n'
        + prelude(bundle.wheel)
        + f'JOB = """\\\n{coded(json.dumps(bundle.job).encode())}"""\n'
        + f'INPUTS = """\\\n{coded(bundle.inputs)}"""\n'
        + "from accel.worker.job import main\n\n"
        + "raise SystemExit(main(base64.b64decode(JOB), base64.b64decode(INPUTS)))\n"
    )
    if len(script) > MAX_SCRIPT_BYTES:
        raise TooLarge(
            f"the job's script is {len(script):,} bytes; Kaggle takes about {MAX_SCRIPT_BYTES:,}.",
            hint="Push fewer passages.",
        )
    return script


def coded(data: bytes) -> str:
    """``data`` in base64, in lines, as it stands in a script."""
    return base64.encodebytes(data).decode()
