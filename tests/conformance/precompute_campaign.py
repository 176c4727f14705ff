"""A corpus over the sandbox Kaggle's two sessions and this machine, with everything going wrong once.

    python tests/conformance/precompute_campaign.py --passages 20000

Distinct real passages (docstrings of what is installed here, cut to a few words, because every "GPU" is this
machine) are precomputed by the product's own command, which is killed with SIGKILL in the middle and begun
again. Among the first jobs on Kaggle one fails, one hangs until its session's timeout, and one leaves output
that is cut off however often it is fetched. Prints one JSON object; exit code 1 unless the index is the one
that is made here in one piece. Other places are added by name: ``--to kaggle,local,vast``; each has its
sandbox started for it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

KILL_AFTER = 2  # shards that are done
RAISES = "def main(*args, **options):\n    raise SystemExit(3)\n"
HANGS = "import time\n\ndef main(*args, **options):\n    time.sleep(3600)\n"


def make_corpus(folder: Path, n: int, words: int) -> Path:
    """``n`` distinct passages in one JSON Lines file."""
    from accel.corpus.docstrings import docstring_passages, library_passages
    from accel.corpus.libraries import standard_library

    folder.mkdir(parents=True)
    seen: set[str] = set()
    # the standard library's come one by one; all of the packages' take minutes
    every = itertools.chain(
        library_passages(standard_library()), (p for _ in "1" for p in docstring_passages(full=True))
    )
    with (folder / "passages.jsonl").open("w") as file:
        for passage in every:
            text = " ".join(passage.text.split()[:words])
            if f"{passage.name} {text}" in seen:
                continue
            seen.add(f"{passage.name} {text}")
            file.write(json.dumps({"title": passage.name, "text": text}) + "\n")
            if len(seen) == n:
                return folder
    raise SystemExit(f"there are only {len(seen)} distinct passages here")


def spoiled(wheel: bytes, source: str) -> bytes:
    """The package with another ``worker/job.py``: what the far end will run."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, source if name == "accel/worker/job.py" else old.read(name))
    return out.getvalue()


def child(argv: list[str], lifetime_s: float) -> None:
    """The product's command, whose first two jobs on Kaggle are sent with a far end that fails and one that
    hangs; how many were sent lies in a file, because this process is killed."""
    from accel.cli import main, precomputing, pushing
    from accel.precompute import driver

    patience = replace(pushing.SANDBOX_PATIENCE, lifetime_s=lifetime_s)
    pushing.SANDBOX_PATIENCE = precomputing.SANDBOX_PATIENCE = patience
    sent = Path(os.environ["ACCEL_HOME"]) / "sent"
    bundle_of = driver.bundle_of

    def spoil(task: Any, texts: Any, wheel: bytes, seconds: float) -> Any:
        if task.need.only == {"kaggle"}:
            n = int(sent.read_text()) if sent.exists() else 0
            sent.write_text(str(n + 1))
            if n < 2:
                wheel = spoiled(wheel, RAISES if n == 0 else HANGS)
        return bundle_of(task, texts, wheel, seconds)

    driver.bundle_of = spoil  # type: ignore[assignment]
    sys.argv = ["accel", *argv]
    main()


def run(passages: int, words: int, shard: int, to: str, lifetime_s: float, folder: Path) -> dict[str, Any]:
    """The campaign; what came of it."""
    from accel.cli import clouds
    from accel.keys import KaggleKey

    home, corpus = folder / "home", make_corpus(folder / "corpus", passages, words)
    home.mkdir()
    with ExitStack() as stack:
        urls, env = [], os.environ | {"ACCEL_HOME": str(home), "ACCEL_SETTINGS": str(folder / "none.toml")}
        for name in [n for n in to.split(",") if n != "local"]:
            cloud = stack.enter_context(clouds.make(name, root=folder / name))
            urls += ["--sandbox-url", f"{name}={cloud.url}"]
            key = clouds.KEYS[name](cloud)
            if isinstance(key, KaggleKey):
                env |= {"KAGGLE_USERNAME": key.username, "KAGGLE_KEY": key.key.get_secret_value()}
                # three fetches of one job, however often; the other session may meet some of them
                cloud.set_faults({"on": "Download", "kind": "truncated", "times": 5})
            elif hasattr(key, "key"):
                env[f"{name.upper()}_API_KEY"] = key.key.get_secret_value()
        command = [
            sys.executable, __file__, "--child", str(lifetime_s), "precompute", str(corpus), "--to", to,
            "--public", "--json", "--shard-size", str(shard), *urls,
        ]  # fmt: skip
        began = time.monotonic()
        first = subprocess.Popen(
            command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        done, lines = 0, []
        assert first.stderr is not None
        for line in first.stderr:
            lines.append(line)
            done += "done, verified" in line
            if done == KILL_AFTER:
                first.send_signal(signal.SIGKILL)
                break
        first.wait()
        if first.returncode != -signal.SIGKILL:
            raise SystemExit("it ended before it was killed:\n" + "".join(lines))
        second = subprocess.run(
            command, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
        if second.returncode:
            raise SystemExit("".join(lines) + second.stderr)
        seconds = time.monotonic() - began
    found = json.loads(second.stdout)
    return {"seconds": seconds, "told": lines, "told_again": second.stderr.splitlines(), **found,
            **in_one_piece(corpus, folder)}  # fmt: skip


def in_one_piece(corpus: Path, folder: Path) -> dict[str, Any]:
    """The index made here, by one encoder in one process."""
    from accel.cli.precomputing import vectors_sha256
    from accel.index.store import HybridIndex
    from accel.session import read_corpus
    from accel.stages.embed import embed_blocks, load_encoder

    encoder, passages = load_encoder(), read_corpus(corpus)
    began = time.monotonic()
    vectors = embed_blocks([encoder], [p.content for p in passages])
    index = HybridIndex.build(folder / "whole", passages, vectors, encoder.spec)
    return {"whole": index.id, "whole_vectors_sha256": vectors_sha256(index),
            "whole_seconds": time.monotonic() - began}  # fmt: skip


def main() -> None:
    """See the module."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[3:], float(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=8, help="of each passage")
    parser.add_argument("--shard", type=int, default=2048)
    parser.add_argument("--to", default="kaggle,local")
    parser.add_argument("--lifetime", type=float, default=600.0, help="seconds; what the hanging run costs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="accel-campaign-") as folder:
        found = run(given.passages, given.words, given.shard, given.to, given.lifetime, Path(folder))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    raise SystemExit(found["index"] != found["whole"])


if __name__ == "__main__":
    main()
