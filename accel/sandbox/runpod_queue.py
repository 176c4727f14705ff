"""RunPod's queues on loopback: what callers and workers ask of them. Guarantee: a job ends once.

Workers speak the protocol of RunPod's own package (runpod 1.12.0 and 2.0.0rc2, serverless/modules/{rp_job,
rp_http,rp_ping}.py), which runs here unmodified. The callers' side: docs serverless/endpoints/
{operation-reference,send-requests,job-states}.mdx, commit a900806, 2026-08-20.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.runpod_endpoints import WAITING, WORKING, Endpoints, Job
from accel.sandbox.wire import Refused

WAIT_MS, MOST_WAIT_MS = 90_000.0, 300_000.0  # of runsync, "?wait"
LOOK_S = 0.2  # whoever is held looks up that often
HOLD_S = 4.0  # a worker's call for a job is held that long: RunPod's number is not published


class Queues(Endpoints):
    """The data plane."""

    # --- what callers ask

    async def run(
        self, ident: str, body: Mapping[str, Any], *, wait_ms: float = 0, fault: Fault | None = None
    ) -> dict[str, Any]:
        """/run and /runsync (wait_ms > 0)."""
        endpoint = self.endpoint(ident)
        if fault and fault.kind is FaultKind.COLD_START:
            endpoint.next_cold = fault
        if not isinstance(body.get("input"), dict):
            raise Refused(400, "the body needs an input")
        policy = body.get("policy") or {}
        timeout_ms = float(policy.get("executionTimeout", endpoint.body.get("timeout", 600_000)))
        job = Job(
            f"{'sync-' if wait_ms else ''}{uuid.uuid4()}-u1", body["input"], bool(wait_ms), self.now(),
            timeout_ms / 1000, float(policy.get("ttl", 86_400_000)) / 1000,
        )  # fmt: skip
        endpoint.jobs[job.id] = job
        self._tell(endpoint)
        self._scale(endpoint)
        ends = self.now() + wait_ms / 1000
        while (left := ends - self.now()) > 0 and not job.done.is_set() and not self.leaving:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.done.wait(), min(left, LOOK_S))
        return job.told()

    def job(self, ident: str, job: str) -> Job:
        """Raises Refused 404: also for one whose time to live or whose result's is over."""
        found = self.endpoint(ident).jobs.get(job)
        if found is None:
            raise Refused(404, "job not found")
        return found

    def cancel(self, ident: str, name: str) -> dict[str, Any]:
        """/cancel: a worker that has it is told on its stop channel."""
        job = self.job(ident, name)
        if job.state == WORKING:
            endpoint = self.endpoints[ident]
            endpoint.stops.setdefault(job.worker, []).append(job.id)
            self._tell(endpoint)
        self._end(job, "CANCELLED")
        return job.told()

    def purge(self, ident: str) -> dict[str, Any]:
        """/purge-queue."""
        waiting = self.endpoint(ident).waiting()
        for job in waiting:
            self._end(job, "CANCELLED")
        return {"removed": len(waiting), "status": "completed"}

    def health(self, ident: str) -> dict[str, Any]:
        """/health (runpod 2.0.0rc2, endpoint/runner.py:252-262; fields: docs operation-reference.mdx)."""
        endpoint = self.endpoint(ident)
        states = [self._status(endpoint, w) for w in self._workers(ident)]
        jobs = [j.state for j in endpoint.jobs.values()]
        return {
            "jobs": {
                "completed": jobs.count("COMPLETED"), "failed": jobs.count("FAILED"),
                "inProgress": jobs.count(WORKING), "inQueue": jobs.count(WAITING),
                "retried": sum(j.retries for j in endpoint.jobs.values()),
            },
            "workers": {
                "idle": states.count("IDLE"), "initializing": states.count("INITIALIZING"),
                "ready": states.count("IDLE"), "running": states.count("RUNNING"),
                "throttled": states.count("THROTTLED"), "unhealthy": states.count("UNHEALTHY"),
            },
        }  # fmt: skip

    # --- what workers ask

    def knows(self, key: str, worker: str) -> bool:
        """Whether ``key`` is that worker's (it is sent bare: runpod 2.0.0rc2, http_client.py:20-34)."""
        kept = self._keys.get(worker, "")
        return bool(kept) and secrets.compare_digest(kept.encode(), key.encode("utf-8", "replace"))

    async def take(self, ident: str, worker: str) -> dict[str, Any] | None:
        """job-take: the oldest waiting job, or None after ``HOLD_S``."""
        endpoint = self.endpoint(ident)
        ends = self.now() + HOLD_S
        endpoint.free_since.setdefault(worker, self.now())
        # a worker that is gone must be given nothing: its connection may be seen to end later
        while (left := ends - self.now()) > 0 and not self.leaving and self.lives(ident, worker):
            if waiting := endpoint.waiting():
                job = waiting[0]
                job.state, job.worker, job.taken_at = WORKING, worker, self.now()
                endpoint.crashes = 0
                return {"id": job.id, "input": job.input}
            endpoint.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(endpoint.news.wait(), min(left, LOOK_S))
        return None

    async def stop_signals(self, ident: str, worker: str) -> dict[str, Any] | None:
        """job-stop: a long poll; rp_job.py:43-102."""
        endpoint = self.endpoint(ident)
        ends = self.now() + HOLD_S
        while (left := ends - self.now()) > 0 and not self.leaving and self.lives(ident, worker):
            if names := endpoint.stops.pop(worker, None):
                return {"jobsToStop": names}
            await asyncio.sleep(min(left, LOOK_S))
        return None

    def finish(
        self, ident: str, worker: str, name: str, told: Mapping[str, Any], fault: Fault | None
    ) -> dict[str, Any]:
        """job-done. A result that comes too late, or twice, is not taken."""
        endpoint = self.endpoint(ident)
        job = endpoint.jobs.get(name)
        endpoint.free_since[worker] = self.now()
        if job is None or job.state != WORKING or job.worker != worker:
            return {}
        if fault and fault.kind is FaultKind.OUT_OF_MEMORY:
            told = {"error": '{"error_type": "<class \'torch.OutOfMemoryError\'>", '
                             '"error_message": "CUDA out of memory."}'}  # fmt: skip
        job.output, job.error = told.get("output"), told.get("error")
        if fault and fault.kind in (FaultKind.CORRUPTED, FaultKind.MISSING):
            job.output = None if fault.kind is FaultKind.MISSING else _corrupted(job.output)
        self._end(job, "FAILED" if job.error is not None else "COMPLETED")
        return {}


def _corrupted(output: Any) -> Any:
    """One character of its longest text changed."""
    if not isinstance(output, dict) or not (texts := [k for k, v in output.items() if isinstance(v, str)]):
        return output
    name = max(texts, key=lambda k: len(output[k]))
    text, at = output[name], len(output[name]) // 2
    return {**output, name: text[:at] + ("A" if text[at:at + 1] != "A" else "B") + text[at + 1:]}
