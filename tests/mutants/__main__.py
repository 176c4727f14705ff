"""``python -m mutants``: play all mutants and write docs/promises.md; or play those that are named."""

from __future__ import annotations

import sys

from mutants.page import PAGE, page
from mutants.play import play_all
from mutants.table import MUTANTS

chosen = tuple(m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:])
results = play_all(chosen)
survived = [name for name, killed in results.items() if killed is None]
if not sys.argv[1:] and not survived:
    PAGE.write_text(page(results))
    sys.stderr.write(f"{PAGE} is written\n")
if survived:
    raise SystemExit(f"survived: {', '.join(survived)}")
