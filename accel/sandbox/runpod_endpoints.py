"""RunPod serverless on loopback: endpoints and their workers. Guarantee: what is started is taken down again.

A worker is a container of the endpoint's image, started when jobs wait, billed from then until it is gone
(docs serverless/pricing.mdx), and taken down after its idle time, or when the jobs it was started for are
over before it is up. A worker that is lost in the middle of a
job gives the job back, once.

Evidence: openapi.json as in ``runpod_account``, names in brackets. What a worker waits for is scaled;
execution limits and a job's time to live are real seconds, as its work is.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accel.sandbox.faults import Fault
from accel.sandbox.machines import EXITED, PROVISIONING, RUNNING, STOPPED, Machine
from accel.sandbox.runpod_account import CONTAINER, Account, identifier, named, only
from accel.sandbox.runpod_catalog import MODELS
from accel.sandbox.runpod_rest import instant
from accel.sandbox.wire import Refused

ENDPOINT = CONTAINER | {
    "gpu", "name", "scaling", "type", "cpu", "dataCenterIds", "flashboot", "networkVolumes", "templateId",
    "timeout", "workers",
}  # fmt: skip
POOL = frozenset({"pools", "excludedTypes", "count", "allowedCudaVersions", "minCudaVersion"})
WAITING, WORKING = "IN_QUEUE", "IN_PROGRESS"
TICK_S = 0.05
# Results of runsync (True) and run (docs serverless/endpoints/send-requests.mdx, "Result retention").
KEPT_S = {True: 60.0, False: 1800.0}
CRASHES = 3  # workers in a row that ended without taking a job: no more are started


@dataclass(slots=True)
class Job:
    """One request. taken_at, ended_at: event loop's seconds, 0 before."""

    id: str
    input: Any
    sync: bool
    made_at: float
    timeout_s: float
    ttl_s: float
    state: str = WAITING
    worker: str = ""
    taken_at: float = 0.0
    ended_at: float = 0.0
    output: Any = None
    error: Any = None
    retries: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self) -> dict[str, Any]:
        """As /status has it: milliseconds; delayTime until a worker took it, executionTime since."""
        said: dict[str, Any] = {"id": self.id, "status": self.state}
        if self.taken_at:
            said["delayTime"] = round(1000 * (self.taken_at - self.made_at))
            said["workerId"] = self.worker
        if self.ended_at and self.taken_at:
            said["executionTime"] = round(1000 * (self.ended_at - self.taken_at))
        if self.output is not None:
            said["output"] = self.output
        if self.error is not None:
            said["error"] = self.error
        return said


@dataclass(slots=True)
class Endpoint:
    """One endpoint. body: what it was made with, its container settings resolved.

    free_since, unasked_since: by worker, that takes jobs, and that is not up yet while no job waits.
    """

    id: str
    body: dict[str, Any]
    made_at: float
    rate: int
    jobs: dict[str, Job] = field(default_factory=dict)
    free_since: dict[str, float] = field(default_factory=dict)
    unasked_since: dict[str, float] = field(default_factory=dict)
    stops: dict[str, list[str]] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    crashes: int = 0
    next_cold: Fault | None = None

    def waiting(self) -> list[Job]:
        return [j for j in self.jobs.values() if j.state == WAITING]

    def working(self, worker: str = "") -> list[Job]:
        return [j for j in self.jobs.values() if j.state == WORKING and worker in ("", j.worker)]


class Endpoints:
    """The endpoints of one account. data_url: where workers and callers find the data plane.

    worker_env: what the image brings into a worker's environment.
    """

    def __init__(
        self, account: Account, data_url: str, time_scale: float, worker_env: Mapping[str, str]
    ) -> None:
        self.account, self.data_url, self.time_scale = account, data_url, time_scale
        self.worker_env = dict(worker_env)
        self.endpoints: dict[str, Endpoint] = {}
        self.leaving = False  # nobody is held any longer
        self._keys: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to scale."""
        self._task = asyncio.get_running_loop().create_task(self._forever())

    async def close(self) -> None:
        """Scale no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    # --- endpoints

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """[createServerless]. Raises Refused 400, 404, 422."""
        only(body, ENDPOINT)
        named(body)
        scaling, gpu, workers = body.get("scaling"), body.get("gpu"), body.get("workers", {})
        if body.get("type") != "QUEUE" or not isinstance(scaling, dict):
            raise Refused(422, "$: missing property 'type' or 'scaling' (the sandbox has queues only)")
        if not isinstance(gpu, dict) or not gpu.get("pools"):
            raise Refused(400, "exactly one of gpu or cpu must be set (the sandbox has no CPU endpoints)")
        only(gpu, POOL)
        only(workers, ("min", "max", "idleTimeout"))
        models = [m for m in MODELS if m.pool in gpu["pools"] and m.id not in gpu.get("excludedTypes", ())]
        if not models:
            raise Refused(400, "no GPU type is left in these pools")
        made = {**body, **self.account.container(body, serverless=True)}
        made["workers"] = {"min": 0, "max": 3, "idleTimeout": 10} | workers
        rate = self.account.catalog.nano(models[0].serverless) * int(gpu.get("count", 1))
        endpoint = Endpoint(identifier(), made | {"model": models[0].id}, self.account.machines.now(), rate)
        self.endpoints[endpoint.id] = endpoint
        self._scale(endpoint)
        return self.shown(endpoint)

    def endpoint(self, ident: str) -> Endpoint:
        """Raises Refused 404."""
        if ident not in self.endpoints:
            raise Refused(404, "serverless endpoint not found")
        return self.endpoints[ident]

    def update(self, ident: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """[updateServerless]: only what is given changes; running workers keep what they have."""
        endpoint = self.endpoint(ident)
        only(body, ENDPOINT - {"type"})
        if "templateId" in body:
            endpoint.body |= self.account.container(body, serverless=True)
        given = {k: v for k, v in body.items() if k not in ("workers", "templateId")}
        endpoint.body |= given
        endpoint.body["workers"] = endpoint.body["workers"] | body.get("workers", {})
        self._scale(endpoint)
        return self.shown(endpoint)

    async def delete(self, ident: str) -> None:
        """[deleteServerless]: workers are terminated, jobs cancelled."""
        endpoint = self.endpoint(ident)
        del self.endpoints[ident]
        self._tell(endpoint)
        for job in endpoint.jobs.values():
            self._end(job, "CANCELLED")
        for worker in self._workers(ident):
            await self.account.machines.destroy(worker.id, "its endpoint was deleted")

    def shown(self, endpoint: Endpoint) -> dict[str, Any]:
        """[Endpoint]."""
        body, base = endpoint.body, f"{self.data_url}/{endpoint.id}"
        calls = {
            "run": "run", "runSync": "runsync", "status": "status/{job_id}", "stream": "stream/{job_id}",
            "cancel": "cancel/{job_id}", "retry": "retry/{job_id}", "purgeQueue": "purge-queue",
            "health": "health",
        }  # fmt: skip
        return {
            "id": endpoint.id, "name": body["name"], "type": "QUEUE",
            "requestUrls": {name: f"{base}/{path}" for name, path in calls.items()},
            **{k: body[k] for k in CONTAINER}, "workers": body["workers"], "scaling": body["scaling"],
            "gpu": {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None} | body["gpu"],
            "dataCenterIds": body.get("dataCenterIds", []), "networkVolumes": body.get("networkVolumes", []),
            "timeout": body.get("timeout", 300_000), "flashboot": body.get("flashboot", "OFF"),
            "createdAt": instant(endpoint.made_at),
        }  # fmt: skip

    def workers(self, ident: str) -> dict[str, Any]:
        """[listServerlessWorkers]."""
        endpoint = self.endpoint(ident)
        rows = [
            {
                "id": w.id, "status": self._status(endpoint, w), "isStale": False, "version": 1,
                "gpuCount": 1, "image": w.words["image"], "gpuTypeId": endpoint.body["model"],
                "dataCenterId": None, "uptimeSeconds": None,
                "startedAt": instant(w.runs_since) if w.runs_since else None,
            }
            for w in self._workers(ident)
        ]  # fmt: skip
        names = ("running", "idle", "initializing", "throttled", "unhealthy")
        summary = {n: sum(r["status"] == n.upper() for r in rows) for n in names} | {"total": len(rows)}
        return {"workers": rows, "summary": summary, "endpointVersion": 1}

    def lives(self, ident: str, worker: str) -> bool:
        """Whether a worker of this endpoint runs."""
        return any(w.id == worker and w.state == RUNNING for w in self._workers(ident))

    # --- inside

    def _workers(self, ident: str) -> list[Machine]:
        return self.account.rented("worker", endpoint=ident)

    def _status(self, endpoint: Endpoint, worker: Machine) -> str:
        if worker.state == PROVISIONING:
            return "THROTTLED" if worker.cold_s is None else "INITIALIZING"
        if worker.state != RUNNING:
            return "UNHEALTHY"
        if endpoint.working(worker.id):
            return "RUNNING"
        return "IDLE" if worker.id in endpoint.free_since else "INITIALIZING"

    def _tell(self, endpoint: Endpoint) -> None:
        endpoint.news.set()

    def _end(self, job: Job, state: str) -> None:
        if job.state in (WAITING, WORKING):
            job.state, job.ended_at = state, self.now()
            job.done.set()

    def _scale(self, endpoint: Endpoint) -> None:
        """One worker for each job that waits beyond those that are free or coming, within the bounds."""
        alive = [w for w in self._workers(endpoint.id) if w.state in (PROVISIONING, RUNNING)]
        bounds = endpoint.body["workers"]
        wanted = len(endpoint.working()) + len(endpoint.waiting())
        missing = min(bounds["max"], max(bounds["min"], wanted)) - len(alive)
        for _ in range(missing if endpoint.crashes < CRASHES else 0):
            try:
                self._start_worker(endpoint)
            except Refused:  # no money: the jobs wait
                return

    def _start_worker(self, endpoint: Endpoint) -> None:
        ident, base = identifier(), f"{self.data_url}/{endpoint.id}"
        self._keys[ident] = secrets.token_hex(16)
        query = "?gpu=1"  # rp_job.py:123 appends "&job_in_progress=…": there must be one
        env = self.worker_env | {
            "RUNPOD_ENDPOINT_ID": endpoint.id, "RUNPOD_AI_API_KEY": self._keys[ident],
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID{query}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            # its checks of the machine ask for 4 GB, CUDA and the internet: serverless/modules/rp_fitness.py
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true", "RUNPOD_SKIP_GPU_CHECK": "true",
        }  # fmt: skip
        cold, endpoint.next_cold = endpoint.next_cold, None
        words = {"kind": "worker", "endpoint": endpoint.id}
        self.account.rent(endpoint.body["name"], endpoint.body, endpoint.rate, words, cold, env, ident)

    async def _forever(self) -> None:
        while True:
            for endpoint in list(self.endpoints.values()):
                await self._look_after(endpoint)
            await self.account.collect()
            await asyncio.sleep(TICK_S)

    async def _look_after(self, endpoint: Endpoint) -> None:
        now = self.now()
        for job in list(endpoint.jobs.values()):
            if job.state == WORKING and now - job.taken_at > job.timeout_s:
                endpoint.stops.setdefault(job.worker, []).append(job.id)
                self._end(job, "TIMED_OUT")
            since, limit = (job.ended_at, KEPT_S[job.sync]) if job.ended_at else (job.made_at, job.ttl_s)
            if now - since > limit:
                self._end(job, "TIMED_OUT")
                del endpoint.jobs[job.id]
        bounds, workers = endpoint.body["workers"], self._workers(endpoint.id)
        for worker in workers:
            if worker.state in (EXITED, STOPPED):
                endpoint.crashes += worker.id not in endpoint.free_since
                await self.account.machines.destroy(worker.id, worker.why)
        gone = {j.worker for j in endpoint.working()} - {w.id for w in self._workers(endpoint.id)}
        for job in [j for j in endpoint.working() if j.worker in gone]:
            if job.retries:
                job.error = "its worker was lost"
                self._end(job, "FAILED")
            else:
                job.state, job.worker, job.taken_at, job.retries = WAITING, "", 0.0, 1
                self._tell(endpoint)
        idle_s = bounds.get("idleTimeout", 10) / self.time_scale
        running = [w for w in self._workers(endpoint.id) if w.state == RUNNING]
        for worker in running[bounds["min"]:]:
            free = endpoint.free_since.get(worker.id)
            if free is not None and not endpoint.working(worker.id) and now - free > idle_s:
                await self.account.machines.destroy(worker.id, "idle")
        await self._call_off(endpoint, now, idle_s)
        self._scale(endpoint)

    async def _call_off(self, endpoint: Endpoint, now: float, idle_s: float) -> None:
        """Take down what was started for jobs that are over, and has not begun to take any."""
        if endpoint.waiting() or endpoint.working():
            endpoint.unasked_since.clear()
            return
        alive = [w for w in self._workers(endpoint.id) if w.state in (PROVISIONING, RUNNING)]
        for worker in alive[endpoint.body["workers"]["min"]:]:
            if worker.id in endpoint.free_since:
                continue
            if now - endpoint.unasked_since.setdefault(worker.id, now) > idle_s:
                await self.account.machines.destroy(worker.id, "nobody waits for it")
