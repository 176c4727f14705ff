"""Other Pythons of this machine, for what needs one: by name on the path, or where pyenv keeps them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def python_of(*versions: str) -> str | None:
    """The first interpreter of one of ``versions`` ("3.12") that runs and can make an environment."""
    kept = Path(os.environ.get("PYENV_ROOT", os.devnull)) / "versions"
    for version in versions:
        under = sorted(kept.glob(f"{version}.*/bin/python"), reverse=True)
        for found in (*map(str, under), shutil.which(f"python{version}")):
            if found and _runs(found, version):
                return found
    return None


def _runs(python: str, version: str) -> bool:
    ask = f"import sys, venv, ensurepip; raise SystemExit('%d.%d' % sys.version_info[:2] != {version!r})"
    return subprocess.run([python, "-c", ask], capture_output=True, check=False).returncode == 0
