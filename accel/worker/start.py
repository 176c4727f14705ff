"""What a rented machine is started with. Guarantee: the command is ``boot``'s source, and holds no secret.

Every provider that rents a bare container gives it this command and this environment; the secrets are in
the environment alone.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

# Vast takes 4,048 characters of onstart (vastai 1.9.1, reference/runpod-vast-modal-ray.md §2).
MAX_COMMAND = 4_000
PORT = 8000
# module=requirement; what of pyproject's dependencies the worker imports (tests/worker/test_allowed.py)
NEEDS = (
    "numpy=numpy>=2.0 torch=torch>=2.10 safetensors=safetensors>=0.5 "
    "sentence_transformers=sentence-transformers>=5.2 Stemmer=pystemmer>=2.2"
)


def source(program: str = "boot.py") -> str:
    """``boot``'s source on one line of at most ``MAX_COMMAND`` characters, without quotes or spaces to
    escape but its own double ones: fit for single quotes in a shell. program: or another file's of here."""
    tree = _Bare().visit(ast.parse(Path(__file__).with_name(program).read_text()))
    plain = ast.unparse(tree)
    small = re.sub(r"^ +", lambda found: " " * (len(found[0]) // 4), plain, flags=re.M).replace("\n\n", "\n")
    if ast.dump(ast.parse(small)) != ast.dump(ast.parse(plain)):  # a text with spaces at a line's beginning
        small = plain
    packed = base64.b64encode(zlib.compress(small.encode(), 9)).decode()
    return f'import base64,zlib;exec(zlib.decompress(base64.b64decode("{packed}")))'


class _Bare(ast.NodeTransformer):
    """Leaves out what nobody reads there: docstrings and annotations (comments are gone already)."""

    def visit(self, node: ast.AST) -> Any:
        self.generic_visit(node)
        if isinstance(node, ast.AnnAssign):
            made = ast.Assign([node.target], node.value) if node.value else None
            return made and ast.copy_location(made, node)
        if isinstance(node, ast.ImportFrom) and node.module in ("__future__", "collections.abc", "typing"):
            return None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
        return node


def command(program: str = "boot.py") -> list[str]:
    """The start command as a list: an image's entry point and arguments."""
    return ["python3", "-c", source(program)]


def shell_line() -> str:
    """The start command as one line of shell."""
    return f"exec python3 -c '{source()}'"


def environment(
    *, token: str, wheel: bytes, lifetime_s: float, idle_s: float, ends_by: datetime | None = None,
    port: int = PORT, needs: str = NEEDS, end: Mapping[str, object] | None = None,
    certificate: tuple[str, str] | None = None,
) -> dict[str, str]:  # fmt: skip
    """The environment that ``boot`` reads. Holds the lease's token: never to be logged.

    ends_by: UTC; holds through a restart of the container, which begins ``lifetime_s`` anew. end: how the
    machine asks to be ended, see ``boot``; names in braces are filled in there, so that no key need be here.
    certificate: certificate and key, PEM, where no proxy of the provider's speaks TLS (``keys.certificate``).
    """
    made = {
        "ACCEL_TOKEN": token, "ACCEL_PORT": str(port), "ACCEL_NEEDS": needs,
        "ACCEL_WHEEL_SHA256": hashlib.sha256(wheel).hexdigest(),
        "ACCEL_LIFETIME_S": f"{lifetime_s:g}", "ACCEL_IDLE_S": f"{idle_s:g}",
    }  # fmt: skip
    if ends_by is not None:
        made["ACCEL_ENDS_AT"] = f"{ends_by.timestamp():.0f}"
    if end is not None:
        made["ACCEL_END"] = json.dumps(end)
    if certificate is not None:
        made["ACCEL_CERT"], made["ACCEL_KEY"] = certificate
    return made
