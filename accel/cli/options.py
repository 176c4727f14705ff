"""Options that several commands share. Guarantee: the same word means the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout (a stable contract).")]
Provider = Annotated[
    list[str] | None,
    typer.Option("--provider", help="Try this provider first; may be given several times."),
]
Corpus = Annotated[
    Path | None,
    typer.Option(help="A file or folder of text, Markdown, Python or JSON Lines. "
                 "Default: the docstrings of Python and of the installed packages."),
]  # fmt: skip
Full = Annotated[bool, typer.Option("--full", help="Every docstring, not a few thousand (slow once).")]
Sandbox = Annotated[
    bool, typer.Option("--sandbox", help="Rehearse against a cloud on loopback: no account, no cost.")
]
