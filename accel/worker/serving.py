"""Envelopes answered for many at once. Guarantee: one bad or huge request spoils no other's answer.

Models are used by one thread; what waits for it meanwhile is served together: embed requests of one Spec
are put together up to the encoder's token budget, which the encoder halves, for good, when the device runs
out of memory. If a batch fails, each of its requests is run alone. Search reads the index in the caller's
thread. A request that nobody waits for any more is not begun.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace

import numpy as np

from accel.core.errors import QueryError
from accel.core.task import Stage
from accel.wire import Envelope, pack_texts, unpack_texts
from accel.worker.door import Refused

WITHIN_S = 90.0  # for one request; under the 100 s at which RunPod's proxy cuts
WAITING = 64  # requests; above it the asker is told to come again
CHARS_PER_TOKEN = 3  # few, so that a batch is rather too small


class Serving:
    """Answers envelopes by ``handle``. budget: tokens of one batch, asked before each.

    counts: requests, batches and errors since the start, for the metrics.
    """

    def __init__(self, handle: Callable[[Envelope], Envelope], budget: Callable[[], int]) -> None:
        self._handle, self._budget = handle, budget
        self._queue: queue.SimpleQueue[tuple[Envelope, Future[Envelope]]] = queue.SimpleQueue()
        self.counts: Counter[str] = Counter()
        threading.Thread(target=self._serve, daemon=True, name="models").start()

    def answer(self, request: Envelope, within_s: float = WITHIN_S) -> Envelope:
        """The answer, or the stage's own error. Raises Refused: 429 when too many wait, 504 after
        ``within_s``."""
        self.counts["requests"] += 1
        if request.spec.get("stage") == Stage.SEARCH and "then" not in request.meta:
            return self._handle(request)
        if self._queue.qsize() >= WAITING:
            self.counts["refused"] += 1
            raise Refused(429, "RateLimited", "too many requests wait here", Retry_After="1")
        future: Future[Envelope] = Future()
        self._queue.put((request, future))
        try:
            return future.result(within_s)
        except (FutureTimeout, CancelledError):
            future.cancel()
            raise Refused(504, "Unreachable", f"not answered within {within_s:g} s") from None

    def waiting(self) -> int:
        """Requests that are not begun."""
        return self._queue.qsize()

    def _serve(self) -> None:
        kept: list[tuple[Envelope, Future[Envelope]]] = []
        while True:
            waiting = kept or [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            batch, kept = _together(waiting, self._budget())
            live = [(r, f) for r, f in batch if f.set_running_or_notify_cancel()]
            if live:
                self._run(live)

    def _run(self, batch: Sequence[tuple[Envelope, Future[Envelope]]]) -> None:
        self.counts["batches"] += 1
        self.counts["batched"] += len(batch)
        if len(batch) > 1:
            try:
                answers = _apart([r for r, _ in batch], self._handle(_one([r for r, _ in batch])))
            except Exception:  # whosever fault it is: alone it is told to its asker only
                self.counts["batches_apart"] += 1
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
                return
        for request, future in batch:
            try:
                future.set_result(self._handle(request))
            except Exception as error:
                future.set_exception(error)


def _together(
    waiting: Sequence[tuple[Envelope, Future[Envelope]]], budget: int
) -> tuple[list[tuple[Envelope, Future[Envelope]]], list[tuple[Envelope, Future[Envelope]]]]:
    """The first of ``waiting`` and what can be computed with it, in its order; and the rest, in its order."""
    first = waiting[0]
    if first[0].spec.get("stage") != Stage.EMBED:
        return [first], list(waiting[1:])
    batch, rest, size = [first], [], _tokens(first[0])
    for entry in waiting[1:]:
        same = dict(entry[0].spec) == dict(first[0].spec)
        if same and size + _tokens(entry[0]) <= budget:
            batch.append(entry)
            size += _tokens(entry[0])
        else:
            rest.append(entry)
    return batch, rest


def _tokens(request: Envelope) -> int:
    """About how many tokens; a broken request counts nothing, and fails when it is run."""
    data, ends = request.tensors.get("text_bytes"), request.tensors.get("text_ends")
    return 0 if data is None or ends is None else data.size // CHARS_PER_TOKEN + 2 * ends.size


def _one(requests: Sequence[Envelope]) -> Envelope:
    texts = [text for request in requests for text in unpack_texts(request.tensors)]
    return replace(requests[0], tensors=pack_texts(texts))


def _apart(requests: Sequence[Envelope], answer: Envelope) -> list[Envelope]:
    """The answer of several requests as one each. Each waited for all of what the batch took."""
    sizes = [request.tensors["text_ends"].size for request in requests]
    rows = np.split(answer.tensors["vectors"], np.cumsum(sizes)[:-1])
    if sum(sizes) != len(answer.tensors["vectors"]):
        raise QueryError("the batch does not come apart.")
    meta = {**answer.meta, "batched": len(requests)}
    return [
        Envelope(request.task_id, request.spec, {"vectors": part}, meta)
        for request, part in zip(requests, rows, strict=True)
    ]
