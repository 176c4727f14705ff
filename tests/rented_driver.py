"""One process of ours at sandbox clouds: ``python rented_driver.py CONFIG`` prints one JSON object.

Everything is the production code, but for two functions at the far end, because none of this is about
models: the job and the stage sleep, and answer with vectors that follow from the texts. They are put into the
wheel that this process packs, so that boot, server, containers and transports are the real ones.

what: "job" submits one batch job and carries it on; "resume" carries on what was left; "live" asks for
embeddings; "many" submits so many batch jobs, but for those that are there, and carries all on at once;
"spread" embeds many texts over several clouds at once; "reap" ends what nobody works with. point:
where the process sends itself SIGKILL, as "METHOD before", "METHOD after", or "METHOD during", which is a
moment after it began.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import json
import os
import signal
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accel.worker import bundle, engine

DIMENSION = 4
LIGHT_JOB = """
def run(job, inputs, say):
    say("sleeping")
    time.sleep(job["seconds"])
    texts = unpack_texts(inputs.tensors)
    from accel.worker.engine import light_vectors
    meta = {"compute_s": job["told_s"]}
    return Envelope(inputs.task_id, job["spec"], {"vectors": light_vectors(texts)}, meta)


"""
LIGHT_ENGINE = """

def light_vectors(texts):
    import hashlib
    rows = [np.frombuffer(hashlib.sha256(t.encode()).digest()[:4], np.uint8) for t in texts]
    return np.array(rows, np.float32).reshape(len(texts), 4)


def _light(self, request):
    from pathlib import Path
    texts = unpack_texts(request.tensors)
    time.sleep(0.002 * len(texts))
    meta = {"compute_s": 0.002 * len(texts)}
    return Envelope(request.task_id, request.spec, {"vectors": light_vectors(texts)}, meta)


Worker.handle = _light
"""
pack = bundle.pack_wheel


@functools.cache
def light_wheel() -> bytes:
    """Our wheel, with a job and a stage that only sleep."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pack())) as ours, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for info in ours.infolist():
            source = ours.read(info)
            if info.filename == "accel/worker/job.py":
                source = source.replace(
                    b'if __name__ == "__main__"', LIGHT_JOB.encode() + b'if __name__ == "__main__"'
                )
            elif info.filename == "accel/worker/engine.py":
                source += LIGHT_ENGINE.encode()
            made.writestr(info, source)
    return out.getvalue()


# before any adapter is imported: it is the default of their wheel
bundle.pack_wheel = light_wheel
exec(LIGHT_ENGINE, engine.__dict__)  # and for what this machine itself answers

from accel.cli import clouds  # noqa: E402
from accel.core.errors import AccelError, EveryAttemptFailed  # noqa: E402
from accel.core.offer import Realm  # noqa: E402
from accel.core.task import Lane, Need, Size, Spec, Stage, Task  # noqa: E402
from accel.fanout import embed_texts  # noqa: E402
from accel.fleet.leases import Patience  # noqa: E402
from accel.gpu_accelerator import GPUAccelerator, open_accelerator  # noqa: E402
from accel.ledger import jobs  # noqa: E402
from accel.wire import Envelope, pack_texts  # noqa: E402

SPEC = Spec(Stage.EMBED, model="light", dimension=DIMENSION)
MOMENT_S = 0.3


def watch(provider: Any, point: str) -> None:
    """Send SIGKILL to this very process at ``point`` of the adapter's class."""
    name, _, when = point.partition(" ")
    inner = getattr(type(provider), name)

    @functools.wraps(inner)
    async def watched(*args: Any, **options: Any) -> Any:
        if when == "before":
            kill()
        if when == "during":
            threading.Timer(MOMENT_S, kill).start()
        answer = await inner(*args, **options)
        if when == "after" or (when == "running" and str(answer.state) == "running"):
            kill()
        return answer

    setattr(type(provider), name, watched)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def act(config: dict[str, Any]) -> dict[str, Any]:
    """Do what the configuration says, and tell how it ended and what the ledger holds."""
    usual = {"poll_s": 0.1, "unreachable_s": 4.0, "lifetime_s": 120.0, "stall_s": 40.0, "idle_s": 1.0}
    patience = Patience(**usual | config.get("patience", {}))
    names = [entry.partition("=")[0] for entry in config["clouds"]]
    told: dict[str, Any] = {"ended": "ok", "error": ""}
    async with open_accelerator(
        Realm.SANDBOX, asked=config.get("asked", names), home=Path(config["home"]), use_cache=False,
        access=clouds.at(config["clouds"]), patience=patience, adopt=config["what"] != "reap",
    ) as made:  # fmt: skip
        for name in names:
            if config.get("point"):
                watch(made.board.providers[name], config["point"])
        try:
            told |= await DOINGS[config["what"]](made, config)
        except (AccelError, TimeoutError) as failed:
            told |= {"ended": type(failed).__name__, "error": str(failed)}
            if isinstance(failed, EveryAttemptFailed):
                told["attempts"] = [[a.provider, a.error] for a in failed.attempts]
    return told | money(Path(config["home"]))


async def job(made: GPUAccelerator, config: dict[str, Any]) -> dict[str, Any]:
    await submit(made, config)
    return told_of(await made.finish(config.get("id", "job")))


async def submit(made: GPUAccelerator, config: dict[str, Any]) -> None:
    only = frozenset(config.get("only", ()))
    need = Need(Stage.EMBED, Lane.BATCH, only=only)
    ident = config.get("id", "job")
    task = Task(ident, Lane.BATCH, SPEC, Size(8, tokens=1000), need)
    bulk = "x" * config.get("bulk", 0)  # characters that each text is longer by
    inputs = Envelope(ident, SPEC.fields(), pack_texts([f"text {n}{bulk}" for n in range(8)]))
    given = {"task_id": ident, "spec": SPEC.fields(), "seconds": config.get("seconds", 0.5)}
    given["told_s"] = config.get("told_s", given["seconds"])
    await made.submit(task, bundle.Bundle.make(given, inputs))


async def many(made: GPUAccelerator, config: dict[str, Any]) -> dict[str, Any]:
    names = [f"many{n}" for n in range(config["jobs"])]
    waited: list[str] = []

    def heard(event: Any) -> None:
        if event.message.startswith("waits: "):
            waited.append(event.message)

    async def one(name: str) -> dict[str, Any]:
        if not jobs.exists(made.ledger, name):
            await submit(made, {**config, "id": name})
        return told_of(await made.finish(name, heard))

    return {"jobs": await asyncio.gather(*map(one, names)), "waited": waited}


async def resume(made: GPUAccelerator, config: dict[str, Any]) -> dict[str, Any]:
    for waiting in made.unfinished():
        return told_of(await made.finish(waiting.id))
    return {}


def told_of(finished: Any) -> dict[str, Any]:
    vectors = finished.result.output.tensors["vectors"]
    return {"attempts": [[a.provider, a.error] for a in finished.attempts], "vectors": digest(vectors)}


async def live(made: GPUAccelerator, config: dict[str, Any]) -> dict[str, Any]:
    texts = [f"text {n}" for n in range(8)]
    need = Need(Stage.EMBED, Lane.LIVE, only=frozenset(config.get("only", ())))
    where, vectors, attempts = [], None, []
    for number in range(config.get("calls", 2)):
        task = Task(
            f"live{number}",
            Lane.LIVE,
            SPEC,
            Size(8, tokens=1000),
            need,
            within_s=config.get("within_s", 60.0),
        )
        result = await made.run(task, Envelope(task.id, SPEC.fields(), pack_texts(texts)))
        where.append(result.where)
        vectors = result.output.tensors["vectors"]
        attempts += [[a.provider, a.error] for a in result.attempts]
    return {"where": where, "vectors": digest(vectors), "attempts": attempts}


async def spread(made: GPUAccelerator, config: dict[str, Any]) -> dict[str, Any]:
    texts = [f"text {n}" for n in range(config["texts"])]
    done = await embed_texts(made, SPEC, texts, over=config["over"], slice_=100)
    pieces = [[p.where, p.start, p.began, p.ended] for p in done.pieces]
    return {"vectors": digest(done.vectors), "rows": len(done.vectors), "pieces": pieces, "left": done.left}


async def reap(made: GPUAccelerator, config: dict[str, Any]) -> dict[str, Any]:
    found = await made.reap(act=config.get("yes", True), others=config.get("others", False))
    return {"found": [[f.provider, f.ended, f.why] for f in found]}


def digest(vectors: Any) -> str:
    return hashlib.sha256(vectors.tobytes()).hexdigest()


def money(home: Path) -> dict[str, Any]:
    """What the ledger says, read when everything is closed."""
    from accel.core.runtime import Runtime
    from accel.ledger import Ledger

    ledger = Ledger(home / "sandbox" / "ledger.sqlite3", Realm.SANDBOX, Runtime.production().now)
    try:
        charged = dict(
            ledger.rows("SELECT provider, sum(amount) FROM charge WHERE fund <> 'quota' GROUP BY provider")
        )
        return {"charged": charged, "held": ledger.held(), "open": len(ledger.open_leases())}
    finally:
        ledger.close()


DOINGS: dict[str, Callable[..., Any]] = {
    "job": job,
    "many": many,
    "resume": resume,
    "live": live,
    "spread": spread,
    "reap": reap,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(act(json.loads(Path(sys.argv[1]).read_text())))) + "\n")
