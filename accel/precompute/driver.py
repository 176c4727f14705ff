"""The driver. Guarantee: every shard is made once, by whoever is free, and what is made is never made again.

Each place takes the next shard as soon as it is done with its last. A shard is a job of the ledger at one
place; when that fails, the next free place takes it, as a job of its own. Whatever ends this process, the
jobs stay: the same call finds what is done by its hash, and first carries on what is under way, also at
places that would not be chosen now, because that is paid for already.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from accel.core.attempt import Attempt
from accel.core.errors import AccelError, BadOutput, EveryAttemptFailed, ProviderError
from accel.core.offer import Offer
from accel.core.task import Spec, Task
from accel.fleet.jobs import Event, Finished
from accel.gpu_accelerator import GPUAccelerator
from accel.index.vectors import F32
from accel.ledger import JobStep, jobs
from accel.precompute.places import LOCAL, Place, Plan, paced
from accel.precompute.queue import STRIKES, Queue, Work
from accel.precompute.results import Made, Precomputed, Told, cost_of
from accel.precompute.shards import Shard, bundle_of, sample, task_of, vectors_of
from accel.stages.agreement import agreement
from accel.stages.embed import Encoder, load_encoder
from accel.worker.bundle import pack_wheel

LIFETIME_S = 1800.0
CHECKED = 2  # texts of a shard that are embedded here, too, to compare
LONGEST_PAUSE_S = 60.0
# errors that say: not now; the shard did not fail
BUSY = frozenset({"NoCapacity", "RateLimited", "OfferTaken"})
# errors after which the same place would say the same of the next shard
OUT = frozenset({"QuotaExhausted", "Unauthorised", "OverBudget", "TooManyLaunches"})


async def precompute(
    accelerator: GPUAccelerator, spec: Spec, texts: Sequence[str], shards: Sequence[Shard], plan: Plan, *,
    private: bool = True, lifetime_s: float = LIFETIME_S, pause_s: float = 30.0,
    tell: Callable[[Told], None] = lambda told: None,
) -> Precomputed:  # fmt: skip
    """Make the vectors of every shard. lifetime_s: after which a far end ends itself. pause_s: before a place
    that was full is asked again.

    Raises EveryAttemptFailed, with every attempt, when shards are left that nobody can make.
    """
    run = _Run(accelerator, spec, texts, shards, plan, private, lifetime_s, pause_s, tell)
    return await run.run()


class _Run:
    """One call of ``precompute``."""

    def __init__(
        self, accelerator: GPUAccelerator, spec: Spec, texts: Sequence[str], shards: Sequence[Shard],
        plan: Plan, private: bool, lifetime_s: float, pause_s: float, tell: Callable[[Told], None],
    ) -> None:  # fmt: skip
        self._accelerator, self._spec, self._texts, self._shards = accelerator, spec, texts, shards
        self._private, self._lifetime_s, self._pause_s, self._tell = private, lifetime_s, pause_s, tell
        self._places = {p.name: p for p in plan.places}
        self._queue = Queue(self._places, ())
        self._made: dict[int, tuple[Made, F32]] = {}
        self._wheel, self._encoder = b"", list[Encoder]()
        self._checking = asyncio.Lock()
        self._fresh, self._began = 0, 0.0  # passages made by this call, and since when
        self._refusals: dict[str, str] = {}
        self._longest_s: dict[str, float] = {}  # of a session, as the place counts it

    async def run(self) -> Precomputed:
        """See ``precompute``."""
        clock = asyncio.get_running_loop().time
        self._began = clock()
        waiting = [w for shard in self._shards if (w := await self._look(shard)) is not None]
        self._queue = Queue(self._places, waiting)
        if waiting:
            self._wheel = await self._accelerator.runtime.offload(pack_wheel)
            there = len(self._made)
            self._say(f"{there} of {len(self._shards)} shards are here already" if there else "")
        workers = [p for p in self._places.values() for _ in range(p.sessions)]
        # what is under way at a place that takes nothing new is carried to its end all the same
        begun = Counter(w.at for w in waiting if w.at and w.at not in self._places)
        workers += [Place(name, n, 0.0, "") for name, n in begun.items() for _ in range(n)]
        tasks = [asyncio.create_task(self._work(place)) for place in workers]
        try:
            await asyncio.gather(*tasks)
        finally:  # one that met an error of ours, or an interrupt, ends the others
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._queue.waiting:
            raise self._nowhere()
        parts = [self._made[s.number] for s in self._shards]
        vectors = np.concatenate([v for _, v in parts])
        return Precomputed(vectors, tuple(m for m, _ in parts), clock() - self._began, dict(self._queue.left))

    async def _look(self, shard: Shard) -> Work | None:
        """What the ledger holds of a shard; None when it is done."""
        ledger, work = self._accelerator.ledger, Work(shard)
        while jobs.exists(ledger, shard.job_id(work.number)):
            job = jobs.get(ledger, shard.job_id(work.number))
            place = next(iter(job.task.need.only))
            if job.step is JobStep.DONE:
                try:
                    await self._keep(work, place, await self._accelerator.finish(job.id), again=True)
                    return None
                except ProviderError:  # its files were lost or altered since: it is made again
                    pass
            elif job.step is not JobStep.FAILED and place in self._accelerator.board.providers:
                work.at = place
                break
            work.attempts += ledger.attempts(job.id)
            work.number += 1
        return work

    async def _work(self, place: Place) -> None:
        """Take shards for one session of a place until there is none, or it is given up."""
        while (work := await self._queue.take(place.name)) is not None:
            made, pause_s = False, 0.0
            try:
                why, again_s = ("", None) if work.at else await self._refused(place, work)
                if not why:
                    made, pause_s = await self._try(work, place)
                elif again_s is None:
                    self._leave(place.name, why)
                else:
                    pause_s = min(max(again_s, 0.05), LONGEST_PAUSE_S)
                    if self._refusals.get(place.name) != why:
                        self._say(f"{place.name} waits: {why}")
                        self._refusals[place.name] = why
            finally:
                await self._queue.put(work, place.name, made=made)
            if pause_s:
                await self._queue.pause(pause_s)

    async def _refused(self, place: Place, work: Work) -> tuple[str, float | None]:
        """Why the place should not begin a shard now ("" if it may), and seconds until that may be over."""
        answers, route = await self._accelerator.preview(self._task(work, place))
        if not route.ranked:
            refusal = next((r for r in route.refused if r.provider == place.name), None)
            return (refusal.reason, refusal.again_s) if refusal else ("it makes no offer", None)
        offer = next(a for a in answers if isinstance(a, Offer) and a.provider == place.name)
        timing = route.ranked[0].estimate.timing
        begun = self._queue.running[place.name] - 1
        each_s = max(self._longest_s.get(place.name, 0.0), timing.cold_s + timing.compute_s)
        return paced(offer, place, begun, each_s), None

    async def _try(self, work: Work, place: Place) -> tuple[bool, float]:
        """Make one shard at one place: whether it is made, and seconds to pause before the place goes on."""
        job_id, label = work.shard.job_id(work.number), f"shard {work.shard.number + 1} on {place.name}"
        if not work.at:
            task = self._task(work, place)
            bundle = bundle_of(task, self._of(work.shard), self._wheel, self._lifetime_s)
            await self._accelerator.submit(task, bundle)
        self._say(f"{label}: {'carried on' if work.at else 'begun'}, {work.shard.count:,} passages")
        try:
            finished = await self._accelerator.finish(job_id, lambda event: self._event(label, event))
            await self._keep(work, place.name, finished)
        except (EveryAttemptFailed, BadOutput) as failure:
            tries = self._accelerator.ledger.attempts(job_id)
            self._note(place.name, tries)
            work.attempts += tries
            work.number, work.at = work.number + 1, ""
            return False, self._failed(work, place.name, label, failure)
        except AccelError as busy:
            if type(busy) is not AccelError:
                raise
            work.at = place.name  # another process works on it: looked at again
            self._say(f"{label}: {busy}")
            return False, self._pause_s
        self._queue.succeeded(place.name)
        self._note(place.name, finished.attempts)
        self._fresh += work.shard.count
        took = finished.attempts[-1].timing
        waited_s = took.wait_s + took.cold_s + took.transfer_s
        self._say(f"{label}: done, verified (wait {waited_s:.1f} s, compute {took.compute_s:.1f} s)")
        return True, 0.0

    def _failed(self, work: Work, place: str, label: str, failure: AccelError) -> float:
        """Note a failure; seconds to pause before the place goes on."""
        last = failure.attempts[-1] if isinstance(failure, EveryAttemptFailed) and failure.attempts else None
        if last is None and isinstance(failure, EveryAttemptFailed):
            return self._pause_s  # its offer was gone: ``_refused`` will say why
        error = last.error if last else type(failure).__name__
        why = f"{error}: {last.detail if last else failure}"
        if error in BUSY:
            self._say(f"{label}: it is full now; asked again in {self._pause_s:.0f} s")
            return self._pause_s
        strikes = self._queue.failed(work, place)
        self._say(f"{label}: failed ({why}); it goes to the next place")
        if error in OUT:
            self._leave(place, why)
        elif strikes >= STRIKES:
            self._leave(place, f"{strikes} failures in a row, the last: {why}")
        return 0.0

    def _note(self, place: str, tries: Sequence[Attempt]) -> None:
        self._longest_s[place] = max(self._longest_s.get(place, 0.0), *(a.used_s for a in tries), 0.0)

    def _leave(self, place: str, why: str) -> None:
        if self._queue.leave(place, why):
            self._say(f"{place} takes no more: {why}")

    async def _keep(self, work: Work, place: str, finished: Finished, *, again: bool = False) -> None:
        """Keep the vectors, once they have the right shape and, from elsewhere, agree with this machine's."""
        shard, result = work.shard, finished.result
        vectors = vectors_of(result, shard, self._spec, place)
        cosine = None
        if place != LOCAL:
            rows = sample(shard, CHECKED)
            texts = [self._texts[shard.start + i] for i in rows]
            async with self._checking:
                mine = await self._accelerator.runtime.offload(self._embed, texts)
            found = agreement(vectors[rows], mine)
            if not found.holds:
                raise BadOutput(f"its vectors are not this model's: {found}", provider=place)
            cosine = found.lowest
        device = str(result.env.get("device") or result.output.meta.get("device", "?"))
        attempts = (*work.attempts, *finished.attempts)
        self._made[shard.number] = (
            Made(shard, finished.job.id, place, device, cosine, attempts, again), vectors,
        )  # fmt: skip

    def _embed(self, texts: list[str]) -> F32:
        if not self._encoder:
            self._encoder.append(load_encoder(self._spec))
        return self._encoder[0].embed(texts)

    def _task(self, work: Work, place: Place) -> Task:
        return task_of(
            work.shard, self._spec, self._of(work.shard), work.shard.job_id(work.number),
            only=frozenset({place.name}), private=self._private,
        )  # fmt: skip

    def _of(self, shard: Shard) -> Sequence[str]:
        return self._texts[shard.start : shard.start + shard.count]

    def _event(self, label: str, event: Event) -> None:
        # that it runs, and that it waits for a place; a failed try is told when its shard is given up
        if event.message and (event.step == JobStep.RUNNING or event.message.startswith("waits: ")):
            self._say(f"{label}: {event.message.removeprefix('running ').removeprefix('accel: ')}")

    def _say(self, line: str) -> None:
        done = sum(m.shard.count for m, _ in self._made.values())
        attempts = [a for m, _ in self._made.values() for a in m.attempts]
        attempts += [a for w in self._queue.waiting for a in w.attempts]
        where = {name: n for name, n in self._queue.running.items() if n}
        self._tell(Told(done, len(self._texts), self._left_s(done), cost_of(attempts), where, line))

    def _left_s(self, done: int) -> float | None:
        """By what this call measured; until a shard is done, by what the places are expected to do."""
        rest = len(self._texts) - done
        if self._fresh:
            return rest * (asyncio.get_running_loop().time() - self._began) / self._fresh
        each = len(self._texts) / len(self._shards)
        active = [self._places[name] for name in self._queue.active]
        speed = sum(p.sessions * each / p.each_s for p in active if p.each_s > 0)
        return rest / speed if speed else None

    def _nowhere(self) -> EveryAttemptFailed:
        left = "; ".join(f"{name}: {why}" for name, why in self._queue.left.items())
        told = (
            f"{len(self._made)} of {len(self._shards)} shards are made and kept, the others could be made "
            f"nowhere{f' ({left})' if left else ''}; the same command goes on from there"
        )
        return EveryAttemptFailed(told, tuple(a for w in self._queue.waiting for a in w.attempts))
